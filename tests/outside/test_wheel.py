"""What pip installs: packages under their own names, a command, and nothing of ComfyUI's."""

import os
import subprocess
import sys
import zipfile

import pytest

from devtools.package import export, pack, unpack, wheel

ROOMS = ("d2f_core", "d2f_data", "d2f_diffusers")


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """The files of the last commit in a repository of their own."""
    return export(tmp_path_factory.mktemp("wheel") / "diff2flow-kit")


@pytest.fixture(scope="module")
def installed(repository, tmp_path_factory):
    """A folder with the wheel's content, as in site-packages, and the names in it."""
    made = wheel(repository, tmp_path_factory.mktemp("wheels"))
    folder = tmp_path_factory.mktemp("site-packages")
    with zipfile.ZipFile(made) as file:
        file.extractall(folder)
        return folder, set(file.namelist())


def python(installed, *arguments, cwd=None):
    environ = {**os.environ, "PYTHONPATH": str(installed[0]), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=cwd or installed[0], env=environ, capture_output=True, text=True
    )
    return done.returncode, done.stdout, done.stderr


def test_the_wheel_holds_the_three_packages_and_the_demo_model(installed, repository):
    names = installed[1]
    files = {path.relative_to(repository).as_posix() for room in ROOMS for path in (repository / room).rglob("*.py")}
    assert files <= names
    assert {"d2f_diffusers/demo_weights/unet.safetensors", "d2f_diffusers/demo_tokenizer/vocab.json"} <= names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == set(ROOMS)
    metadata = next(name for name in names if name.endswith("/METADATA"))
    text = (installed[0] / metadata).read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line] == []
    points = (installed[0] / metadata.replace("METADATA", "entry_points.txt")).read_text(encoding="utf-8")
    assert "diff2flow = d2f_diffusers.cli:main" in points


def test_every_module_imports_under_its_own_name(installed):
    """Relative imports that leave a package work in ComfyUI only; here each package stands alone."""
    code = (
        "import importlib, pkgutil, sys\n"
        f"for room in {ROOMS!r}:\n"
        "    for one in pkgutil.walk_packages(importlib.import_module(room).__path__, room + '.'):\n"
        "        if not one.name.endswith('__main__'): importlib.import_module(one.name)\n"
        "assert sys.modules['d2f_core'].FlowAlignment is importlib.import_module('d2f_data.core').FlowAlignment\n"
        "assert not any(name.split('.')[0] in ('comfy', 'nodes', 'demo') for name in sys.modules)\n"
    )
    code_, _, err = python(installed, "-c", code)
    assert code_ == 0, err


def test_the_command_and_two_lines(installed, tmp_path):
    code, out, err = python(installed, "-m", "d2f_diffusers.cli", "export-demo", tmp_path / "demo", cwd=tmp_path)
    assert code == 0 and "the demo model is in" in out, err
    code, out, err = python(
        installed,
        "-c",
        "import diffusers, sys; from d2f_diffusers import Diff2FlowEulerScheduler\n"
        f"pipe = diffusers.StableDiffusionPipeline.from_pretrained({str(tmp_path / 'demo')!r})\n"
        "pipe.scheduler = Diff2FlowEulerScheduler.from_config(pipe.scheduler.config)\n"
        "pipe('a large red sphere', num_inference_steps=2).images[0].save(sys.argv[1])\n"
        f"pipe.save_pretrained({str(tmp_path / 'converted')!r})\n"
        f"again = diffusers.StableDiffusionPipeline.from_pretrained({str(tmp_path / 'converted')!r})\n"
        "assert type(again.scheduler) is Diff2FlowEulerScheduler, type(again.scheduler)\n",
        tmp_path / "picture.png",
        cwd=tmp_path,
    )
    assert code == 0, err
    assert (tmp_path / "picture.png").stat().st_size > 1000


def test_a_missing_library_is_named_with_the_command_that_installs_it(installed, tmp_path):
    (tmp_path / "diffusers.py").write_text("raise ModuleNotFoundError(\"No module named 'diffusers'\")\n", "utf-8")
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(installed[0])])}
    command = [sys.executable, "-m", "d2f_diffusers.cli", "export-demo", str(tmp_path / "x")]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("diff2flow: No module named 'diffusers'; run ") and "Traceback" not in done.stderr
    assert done.stderr.rstrip().endswith("-m pip install diff2flow-kit[train]")


@pytest.mark.slow
def test_the_registrys_archive_can_be_installed_as_well(repository, tmp_path):
    folder = unpack(pack(repository), tmp_path / "diff2flow-kit")
    assert wheel(folder, tmp_path / "wheels").is_file()
