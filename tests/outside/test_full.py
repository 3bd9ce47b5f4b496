"""Full fine-tuning: all weights of the network, in one process, several, and sharded over several."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("accelerate")

from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from d2f_diffusers.train.__main__ import main
from d2f_diffusers.train.flags import read

SHARDED = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}
BASE = (
    *("--train", "full", "--resolution", "96", "--bucket_step", "32", "--learning_rate", "1e-3", "--use_ema"),
    *("--ema_decay", "0.5", "--proportion_empty_prompts", "0.3"),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory, parts):
    """A folder with the tiny pipeline and a few pictures."""
    place = tmp_path_factory.mktemp("full")
    scheduler = diffusers.DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    diffusers.StableDiffusionPipeline(**parts, scheduler=scheduler).save_pretrained(place / "model")
    (place / "data").mkdir()
    for number, colour in enumerate(("red", "green", "blue", "cyan", "white")):
        Image.new("RGB", (96, 96) if number < 3 else (128, 64), colour).save(place / "data" / f"{number}.png")
        (place / "data" / f"{number}.txt").write_text(f"a {colour} cube", encoding="utf-8")
    return place


def words(place, output, *arguments, steps=2, accumulation=1):
    return [
        *("--pretrained_model_name_or_path", str(place / "model"), "--train_data_dir", str(place / "data")),
        *("--output_dir", str(output), "--cache_dir", str(place / "cache"), "--max_train_steps", str(steps)),
        *("--gradient_accumulation_steps", str(accumulation), *BASE, *arguments),
    ]  # fmt: skip


# Trains each of its arguments, a JSON list of command lines, one after the other in the processes of one launch.
RUNS = """
import json, sys, torch
from d2f_diffusers.train.__main__ import main
for line in json.loads(sys.argv[1]):
    code = main(line)
    if code:
        sys.exit(code)
"""


def start(root, processes, lines, **environ):
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes))
    script = os.path.join(os.path.dirname(lines[0][5]), f"runs{processes}.py")
    with open(script, "w", encoding="utf-8") as file:
        file.write(RUNS)
    environ = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environ}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    command = [sys.executable, *launch, script, json.dumps(lines)]
    return subprocess.Popen(command, env=environ, start_new_session=True, **pipes)


def finish(process, patience=240):
    out, _ = process.communicate(timeout=patience)
    return process.returncode, out


def state(folder):
    return load_file(folder / "state.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_run(place, tmp_path):
    main(words(place, tmp_path / "a", steps=3))
    print(sorted(str(p.relative_to(tmp_path)) for p in (tmp_path / "a").rglob("*")))


def test_procs(root, place, tmp_path):
    one, two, sharded = (tmp_path / name for name in ("one", "two", "sharded"))
    assert main(words(place, one, steps=3, accumulation=2)) == 0
    code, out = finish(start(root, 2, [words(place, two, steps=3)]))
    assert code == 0, out
    assert same(state(one / "checkpoint-3"), state(two / "checkpoint-3"))
    code, out = finish(start(root, 2, [words(place, sharded, steps=3)], **SHARDED))
    assert code == 0, out
    a, b = state(one / "checkpoint-3"), state(sharded / "checkpoint-3")
    print(max(float((a[k].float() - b[k].float()).abs().max()) for k in a), a.keys() == b.keys())
    print({k: (a[k].float() - b[k].float()).abs().max() for k in a if float((a[k].float() - b[k].float()).abs().max()) > 1e-6})
