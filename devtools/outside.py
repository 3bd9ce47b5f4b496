"""The demo outside ComfyUI: train the demo model's LoRA on two processes, and show what a pipeline makes of it.

It runs in the set-up environment (`python -m devtools.outside`). Everything is in .d2f/outside of the checkout:

    data/             96 rendered scenes in a colour that the model does not know, with captions
    model/            the demo model as a diffusers pipeline (`diff2flow export-demo`)
    run/              checkpoints and LoRA files of the training
    before_after.png  the same prompts and noise without and with the LoRA, by our scheduler
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from .console import DevError, say
from .pack import register
from .paths import ROOT

FOLDER = ROOT / ".d2f" / "outside"
COLOUR, SCENES, STEPS, PROCESSES = "cyan", 96, 200, 2
PROMPTS = (
    f"a large {COLOUR} sphere on the left, gray background",
    f"a small {COLOUR} cube on the right, tan background",
)
PER_PROMPT, SAMPLING_STEPS, CFG = 8, 25, 3.0
# The settings of the workflow 02 Train a LoRA; its batch of 8 is one of 4 on each process.
SETTINGS = (
    *("--max_train_steps", str(STEPS), "--learning_rate", "2e-3", "--train_batch_size", "4"),
    *("--gradient_accumulation_steps", "1", "--rank", "16", "--proportion_empty_prompts", "0.1"),
    *("--set", "density=logit_normal", "--set", "preview_cfg=3", "--checkpointing_steps", "0"),
    *("--resolution", "96", "--run_name", "outside", "--validation_prompt", PROMPTS[0]),
)


def demo(folder: Path = FOLDER, steps: tuple[str, ...] = ()) -> dict[str, int]:
    """Run all of it; how many pictures before and after have the colour. `steps` are more flags for the training."""
    shutil.rmtree(folder, ignore_errors=True)
    render(folder / "data")
    run("-m", "d2f_diffusers.cli", "export-demo", str(folder / "model"))
    start = time.monotonic()
    paths = ("--pretrained_model_name_or_path", folder / "model", "--train_data_dir", folder / "data")
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(PROCESSES))
    train = ("-m", "d2f_diffusers.train", *map(str, paths), "--output_dir", str(folder / "run"))
    run(*launch, *train, *SETTINGS, *steps)
    say(f"Trained on {PROCESSES} processes in {time.monotonic() - start:.0f} s.")
    return show(folder)


def render(folder: Path) -> None:
    """The scenes of the node Demo Scenes, as files."""
    import numpy

    register()
    from PIL import Image

    from diff2flow_kit.demo.captions import caption
    from diff2flow_kit.demo.render import render_batch
    from diff2flow_kit.demo.scenes import ATTRIBUTES, make_scene, sample_scene

    rng = numpy.random.default_rng(0)
    sampled = [
        {name: getattr(scene, name) for name in ATTRIBUTES} for scene in (sample_scene(rng) for _ in range(SCENES))
    ]
    scenes = [make_scene(rng, **{**attributes, "color": COLOUR}) for attributes in sampled]
    pixels = (render_batch(scenes)[0] * 255).round().byte().numpy()
    folder.mkdir(parents=True)
    for number, (scene, picture) in enumerate(zip(scenes, pixels)):
        Image.fromarray(picture).save(folder / f"{number:03}.png")
        (folder / f"{number:03}.txt").write_text(caption(scene, rng), encoding="utf-8")


def run(*arguments: str) -> None:
    """Run the interpreter with the checkout's packages; a DevError if it fails."""
    environ = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": str(ROOT)}
    if subprocess.call([sys.executable, *arguments], env=environ, cwd=FOLDER.parent.parent) != 0:
        raise DevError(f"{' '.join(arguments[:6])} ... failed; what it said is above.")


def show(folder: Path) -> dict[str, int]:
    """Sample before and after, save the pictures side by side, and count those with the colour."""
    import torch
    from PIL import Image

    register()
    from diffusers import StableDiffusionPipeline

    from d2f_diffusers import Diff2FlowEulerScheduler
    from diff2flow_kit.demo.reader import read_attributes

    pipeline: Any = StableDiffusionPipeline.from_pretrained(folder / "model")
    pipeline.scheduler = Diff2FlowEulerScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    counts, rows = {}, []
    for when in ("before", "after"):
        if when == "after":
            pipeline.load_lora_weights(str(folder / "run" / f"outside_step{STEPS:06}.safetensors"))
        generator = torch.Generator().manual_seed(7)
        prompts = [prompt for prompt in PROMPTS for _ in range(PER_PROMPT)]
        options: Any = {"num_inference_steps": SAMPLING_STEPS, "guidance_scale": CFG, "generator": generator}
        pixels = pipeline(prompts, **options, output_type="pt").images.movedim(1, -1)
        counts[when] = sum(words["color"] == COLOUR for words in read_attributes(pixels))
        rows.append(torch.cat(list(pixels), 1))
    sheet = (torch.cat(rows) * 255).round().byte().numpy()
    Image.fromarray(sheet).save(folder / "before_after.png")
    total = len(PROMPTS) * PER_PROMPT
    say(f"Pictures in {COLOUR}: {counts['before']} of {total} before, {counts['after']} of {total} after.")
    say(f"They are in {folder / 'before_after.png'}, the LoRA in {folder / 'run'}.")
    return counts


if __name__ == "__main__":
    try:
        demo()
    except DevError as error:
        sys.exit(f"dev.py: {error}")
