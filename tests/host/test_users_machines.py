"""Users' machines: languages, folders, limits and flags of ComfyUI, each in a real server of its own.

One graph for all: encode a folder of pictures, train four steps on it, save and load the LoRA, sample with it.
"""

import contextlib
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from devtools.client import Client
from devtools.host import Host, read_version
from devtools.prompts import prompt_for
from devtools.server import ADDRESS, running

WINDOWS = os.name == "nt"
ODD_NAME = "Fotos f\u00fcr sp\u00e4ter \u5199\u771f \u0131\u015f\u0131k"
TRAINER, SET, COMPARED = "8", "40:7000", "41:7000"  # a node, and what the nodes in two subgraphs begin with
SAVED = f"{COMPARED}20"


def graph(folder):
    """The demo's training with four steps on a folder, and pictures of the LoRA."""
    prompt = prompt_for("02 Train a LoRA")
    dataset = {
        "folder": folder, "resolution": 96, "captions": "none", "caption": "a large red sphere on the left",
        "prefix": "", "repeats": 1, "variants": 1, "flip": True, "crop": 0.0, "colour": 0.1, "odd_files": "stop",
        "upscale": "allow", "seed": 0, "bucket_step": 32, "folder_repeats": False, "clip": ["2", 1], "vae": ["2", 2],
        "prompt_weights": False, "caption_extension": "", "caption_lines": "joined", "transparency": "white",
        "unmasked_weight": 0.0, "shuffle_tags": False, "keep_tokens": 1, "tag_dropout": 0.0, "caption_variants": 4,
        "more_folders": "", "regularisation_weight": 1.0, "fit": "crop", "more_resolutions": "",
    }  # fmt: skip
    prompt["set"] = {"class_type": "D2FFolderDataset", "inputs": dataset}
    prompt[TRAINER]["inputs"] |= {
        "latents": ["set", 0], "positive": ["set", 1], "negative": ["set", 2], "steps": 4, "batch_size": 2,
        "preview_every": 2, "run_name": ODD_NAME, "options": ["memory", 0],
    }  # fmt: skip
    saving = {"save_every": 2, "preview_cfg": 1.0, "validate_every": 0, "options": [f"{SET}38", 0]}
    memory = {"checkpointing": True, "precision": "auto", "compile": False, "offload": False, "options": ["saving", 0]}
    prompt["saving"] = {"class_type": "D2FSavingOptions", "inputs": saving}
    prompt["memory"] = {"class_type": "D2FMemoryOptions", "inputs": memory}
    prompt[f"{COMPARED}19"]["inputs"]["steps"] = 4
    keep = {"2", "set", "saving", "memory", TRAINER, "9", "21", "37"}
    keep |= {
        *(SET + name for name in ("06", "36", "38")),
        *(COMPARED + name for name in ("12", "13", "14", "15", "19", "20")),
    }
    return {name: node for name, node in prompt.items() if name in keep}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of three pictures."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("images")
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (96 + 16 * number, 128, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"\u00e9t\u00e9 {number}.png")
    return folder


@pytest.fixture(scope="module")
def trained(host_path, images):
    """`trained(base, python=..., extra=...)` -> the pictures of the graph on a server of its own, and the loss."""
    from PIL import Image

    def run(base, python=None, extra=()):
        host = Host(host_path, read_version(host_path))
        with running(host, Path(python or sys.executable), base, extra=extra, threads=1) as process:
            shutil.copytree(images, base / "input" / ODD_NAME)
            client = Client(ADDRESS, process.port, process.alive)
            result = client.run(graph(ODD_NAME), seconds=300)
            found = {image["filename"]: client.view(image) for image in result.images()}
        assert (base / "output" / "loras" / "diff2flow" / f"{ODD_NAME}.safetensors").is_file()
        assert (base / "output" / "diff2flow" / "runs" / ODD_NAME / "state.safetensors").is_file()
        return [np.asarray(Image.open(io.BytesIO(data))) for _, data in sorted(found.items())]

    return run


@contextlib.contextmanager
def environment(**values):
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@pytest.fixture(scope="module")
def plain(trained, tmp_path_factory):
    """The pictures of the graph on this machine as it is."""
    return trained(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module", params=["tr_TR", "de_DE"])
def language(request, tmp_path_factory):
    """Environment variables of a machine in that language, whose C library writes numbers as that language does."""
    folder, name = tmp_path_factory.mktemp("locales"), f"{request.param}.UTF-8"
    made = shutil.which("localedef") and subprocess.run(
        ["localedef", "-i", request.param, "-f", "UTF-8", str(folder / name)], capture_output=True
    )
    if not made or made.returncode > 1:
        pytest.skip("this machine cannot make locales")
    # Python leaves numbers alone until a library asks for the machine's language, as GTK and Qt do.
    (folder / "sitecustomize.py").write_text("import locale; locale.setlocale(locale.LC_ALL, '')", encoding="ascii")
    values = {"LOCPATH": str(folder), "LC_ALL": name, "LANG": name, "PYTHONPATH": str(folder)}
    code = [sys.executable, "-c", "import locale; print(locale.localeconv()['decimal_point'])"]
    assert subprocess.run(code, env={**os.environ, **values}, capture_output=True, text=True).stdout == ",\n"
    return values


@pytest.mark.slow
@pytest.mark.skipif(WINDOWS, reason="limits and locales are set as on Linux")
def test_language_folders_and_limits_change_nothing(trained, plain, language, tmp_path_factory):
    """Turkish (whose i has no dot), German (1,5), no home to write to, python -O, 64 open files, odd folder names."""
    base = tmp_path_factory.mktemp("odd") / ODD_NAME / "ComfyUI's base"
    base.mkdir(parents=True)
    python = base.parent / "python"
    python.write_text(f'#!/bin/sh\nulimit -n 64 && exec "{sys.executable}" "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    with environment(**language, HOME="/proc/nowhere", XDG_CACHE_HOME="/proc/nowhere/c", PYTHONOPTIMIZE="1"):
        odd = trained(base, python)
    assert len(plain) == len(odd) == 6
    assert all(np.array_equal(one, other) for one, other in zip(plain, odd))


@pytest.mark.slow
@pytest.mark.parametrize("flags", [
    ["--fp8_e4m3fn-unet", "--fp16-vae"],
    ["--fp16-unet", "--fp32-vae", "--fp16-text-enc"],
    ["--bf16-unet", "--bf16-vae", "--cpu-vae"],
    ["--force-fp16", "--disable-smart-memory"],
], ids=" ".join)  # fmt: skip
def test_flags_of_types_and_memory(trained, tmp_path, flags):
    pictures = trained(tmp_path, extra=flags)
    assert all(float(picture.std()) > 5 for picture in pictures)
