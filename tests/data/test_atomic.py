"""Atomic writing: a file is complete or absent, whatever happens while it is written."""

import errno
import os
import re
import signal
import stat
import subprocess
import sys
import textwrap
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from diff2flow_kit.d2f_data.files import atomic
from diff2flow_kit.d2f_data.files.atomic import atomic_write, load_tensors, save_tensors

ROOT = Path(__file__).resolve().parents[2]


def other_process(code: str, folder: Path) -> subprocess.Popen[str]:
    """A Python that has files/atomic.py as ``atomic`` and its working directory in ``folder``."""
    load = f"""
        import importlib.util, sys
        spec = importlib.util.spec_from_file_location("atomic", {str(ROOT / "d2f_data" / "files" / "atomic.py")!r})
        atomic = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(atomic)
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(load) + textwrap.dedent(code)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture
def saved(tmp_path):
    """An existing file with known content."""
    path = tmp_path / "file.safetensors"
    save_tensors(path, {"a": torch.arange(5.0)}, {"note": "old"})
    return path


def is_old(path):
    tensors, metadata = load_tensors(path)
    return metadata == {"note": "old"} and torch.equal(tensors["a"], torch.arange(5.0))


def test_tensors_come_back_as_they_were(tmp_path):
    whole = torch.randn(4, 6)
    tensors = {
        "transposed": whole.T,
        "view": whole[1:3, ::2],
        "shared": whole,
        "again": whole,
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "empty": torch.zeros(0, 3),
        "half": torch.randn(3).bfloat16(),
        "parameter": torch.nn.Parameter(torch.randn(2)),
        "steps": torch.tensor([1, 2]),
        "flag": torch.tensor([True, False]),
    }
    save_tensors(tmp_path / "deep" / "er" / "x.safetensors", tensors, {"a": "b"})
    loaded, metadata = load_tensors(tmp_path / "deep" / "er" / "x.safetensors")
    assert metadata == {"a": "b"} and loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype and torch.equal(loaded[name], tensor), name


def test_loaded_tensors_can_be_trained_and_outlive_their_file(saved):
    with torch.inference_mode():
        tensor = load_tensors(saved)[0]["a"]
    saved.write_bytes(b"something else")
    assert torch.equal(tensor, torch.arange(5.0))
    assert not tensor.is_inference()
    tensor.requires_grad_().sum().backward()


def test_the_old_file_is_replaced_not_overwritten(saved):
    """A reader that has it open still reads the old content, so it is never a mixture of both."""
    before = saved.read_bytes()
    with saved.open("rb") as reader:
        save_tensors(saved, {"a": torch.ones(500)}, {})
        assert reader.read() == before != saved.read_bytes()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(saved, error):
    def write(path):
        path.write_bytes(b"half of i")
        raise error

    with pytest.raises(error):
        atomic_write(saved, write)
    assert is_old(saved) and os.listdir(saved.parent) == [saved.name]


def test_an_error_while_writing_a_new_file_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        atomic_write(tmp_path / "new", lambda path: path.write_bytes(b"x") / 0)
    assert os.listdir(tmp_path) == []


def test_temporary_paths_are_short(tmp_path):
    """Windows limits paths to 259 characters, and names of cache files have 76."""
    paths = []

    def write(path):
        path.touch()
        paths.extend(str(found.relative_to(tmp_path)) for found in tmp_path.rglob("*"))

    atomic_write(tmp_path / ("f" * 64 + ".safetensors"), write)
    assert len(paths) == 1 and max(map(len, paths)) <= 30 and all(name.startswith(".") for name in paths)


def test_writers_in_one_folder_do_not_interfere(tmp_path):
    """With equal names, and with names that begin alike."""

    def write(path):
        path.write_text("first")
        atomic_write(tmp_path / "my_lora_00001", lambda other: other.write_text("second"))
        atomic_write(tmp_path / "my_lora_00002", lambda other: other.write_text("third"))
        assert (tmp_path / "my_lora_00001").read_text() == "second"

    atomic_write(tmp_path / "my_lora_00001", write)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "my_lora_00001": "first",
        "my_lora_00002": "third",
    }


@pytest.mark.skipif(os.name == "nt", reason="Windows syncs no folders")
@pytest.mark.parametrize("synced", [True, False])
def test_only_what_is_not_checked_when_read_waits_for_the_disk(tmp_path, monkeypatch, synced):
    """The file itself and the folder's entry of it."""
    calls, fsync = [], os.fsync
    monkeypatch.setattr(atomic.os, "fsync", lambda descriptor: calls.append(descriptor) or fsync(descriptor))
    save_tensors(tmp_path / "a.safetensors", {"a": torch.arange(5.0)}, {}, synced=synced)
    assert len(calls) == (2 if synced else 0)
    assert torch.equal(load_tensors(tmp_path / "a.safetensors")[0]["a"], torch.arange(5.0))


@pytest.fixture
def scanner(monkeypatch):
    """`scanner(windows, moments)`: the first moves of a file fail; returns a list of the seconds waited."""
    waited, replace = [], os.replace

    def install(windows, moments, error=PermissionError):
        left = iter(range(moments))

        def held(source, target):
            if next(left, None) is not None:
                raise error(13, "held by a virus scanner")
            replace(source, target)

        monkeypatch.setattr(atomic, "_WINDOWS", windows)
        monkeypatch.setattr(atomic.os, "replace", held)
        monkeypatch.setattr(atomic.time, "sleep", waited.append)
        return waited

    return install


def test_on_windows_a_file_that_is_briefly_in_use_is_retried(saved, scanner):
    waited = scanner(True, 10)
    save_tensors(saved, {"a": torch.ones(1)}, {"note": "new"})
    assert load_tensors(saved)[1] == {"note": "new"} and sum(waited) == pytest.approx(1)


@pytest.mark.parametrize(
    ("windows", "moments", "error"),
    [(True, 11, PermissionError), (True, 1, FileNotFoundError), (False, 1, PermissionError)],
)
def test_a_file_that_cannot_be_moved_is_an_error(saved, scanner, windows, moments, error):
    """After a second on Windows if access is denied, otherwise at once."""
    waited = scanner(windows, moments, error)
    with pytest.raises(error, match="virus scanner"):
        save_tensors(saved, {"a": torch.ones(1)}, {})
    assert is_old(saved) and os.listdir(saved.parent) == [saved.name] and len(waited) == moments - 1


@pytest.mark.skipif(os.name == "nt", reason="Windows opens no folders")
@pytest.mark.parametrize(
    ("call", "code", "passes"),
    [
        ("fsync", errno.EINVAL, True),
        ("fsync", errno.EBADF, True),
        ("fsync", errno.ENOTSUP, True),
        ("open", errno.EACCES, True),
        ("open", errno.EPERM, True),
        ("fsync", errno.EIO, False),
    ],
)
def test_a_mount_whose_folders_cannot_be_synced(saved, monkeypatch, call, code, passes):
    """The file exists by then. A failing disk is still an error."""
    original = getattr(os, call)

    def refuse(what, *args, **options):
        is_folder = stat.S_ISDIR(os.fstat(what).st_mode) if call == "fsync" else what == saved.parent
        if is_folder:
            raise OSError(code, os.strerror(code))
        return original(what, *args, **options)

    monkeypatch.setattr(atomic.os, call, refuse)
    with nullcontext() if passes else pytest.raises(OSError, match=os.strerror(code)):
        save_tensors(saved, {"a": torch.ones(1)}, {"note": "new"})
    assert load_tensors(saved)[1] == {"note": "new"} and os.listdir(saved.parent) == [saved.name]


def test_a_kill_in_the_middle_of_a_save_leaves_the_old_file(saved):
    code = """
        import time
        from pathlib import Path
        def write(path):
            with path.open("wb") as file:
                file.write(b"x" * 100000)
                file.flush()
                print("half", flush=True)
                time.sleep(60)
        atomic.atomic_write(Path("file.safetensors"), write)
    """
    process = other_process(code, saved.parent)
    assert process.stdout.readline() == "half\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert is_old(saved)
    [hidden] = [path for path in saved.parent.iterdir() if path != saved]
    assert hidden.name.startswith(".") and hidden.suffix == ".tmp"
    save_tensors(saved, {"a": torch.ones(1)}, {})
    assert hidden.exists()  # it could belong to a writer that is still active
    os.utime(hidden, (time.time() - 2 * 86400,) * 2)
    save_tensors(saved, {"a": torch.ones(1)}, {})
    assert os.listdir(saved.parent) == [saved.name]


def test_a_kill_at_any_moment_leaves_a_whole_file(tmp_path):
    """A process that saves in a loop is killed at several moments: the file is always one of its saves."""
    code = """
        import torch
        from pathlib import Path
        for i in range(10**6):
            atomic.save_tensors(Path("file.safetensors"), {"a": torch.full((500000,), i)}, {"i": str(i)})
            print(i, flush=True)
    """
    for delay in (0.0, 0.003):
        process = other_process(code, tmp_path)
        process.stdout.readline()
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        tensors, metadata = load_tensors(tmp_path / "file.safetensors")
        assert torch.equal(tensors["a"], torch.full((500000,), int(metadata["i"])))


def test_a_full_disk_leaves_the_old_file(saved):
    code = """
        import resource, torch
        from pathlib import Path
        resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))
        try:
            atomic.save_tensors(Path("file.safetensors"), {"a": torch.zeros(10**6)}, {})
        except OSError as error:
            print(error)
    """
    output = other_process(code, saved.parent).communicate()[0]
    assert re.search(r"^file\.safetensors could not be written \(.*\); free some space", output)
    assert is_old(saved) and os.listdir(saved.parent) == [saved.name]


def test_the_file_has_the_mode_of_the_umask(tmp_path):
    code = """
        import os, torch
        from pathlib import Path
        for umask in (0o022, 0o027, 0o002):
            os.umask(umask)
            atomic.save_tensors(Path(f"{umask}.safetensors"), {"a": torch.zeros(1)}, {})
    """
    assert other_process(code, tmp_path).communicate()[0] == ""
    for umask in (0o022, 0o027, 0o002):
        assert stat.S_IMODE((tmp_path / f"{umask}.safetensors").stat().st_mode) == 0o666 & ~umask


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "in the way").write_text("a file where the folder should be")
    with pytest.raises(OSError, match=r"cannot write x.safetensors into the folder .*in the way .*choose another one"):
        save_tensors(tmp_path / "in the way" / "x.safetensors", {"a": torch.zeros(1)}, {})


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_without_permission_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match=re.escape(str(tmp_path))):
        save_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(1)}, {})


def test_files_that_cannot_be_loaded_are_named(saved):
    folder = saved.parent
    with pytest.raises(ValueError, match=r"there is no file .*missing\.safetensors"):
        load_tensors(folder / "missing.safetensors")
    with pytest.raises(ValueError, match="there is no file"):
        load_tensors(folder)
    for name, content in {"cut": saved.read_bytes()[:-3], "text": b"not tensors at all", "empty": b""}.items():
        path = folder / f"{name}.safetensors"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}\.safetensors cannot be read: it is damaged, truncated or not"):
            load_tensors(path)


@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".bin", ".PTH", ".pkl"])
def test_a_pickle_is_never_opened(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    with pytest.raises(ValueError, match=r"model\.\w+ is a pickle"):
        load_tensors(path)
    renamed = tmp_path / "renamed.safetensors"
    torch.save({"a": torch.zeros(3)}, renamed)
    with pytest.raises(ValueError, match=r"renamed\.safetensors cannot be read"):
        load_tensors(renamed)
