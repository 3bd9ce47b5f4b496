"""The archive that the registry hands out: what `comfy node pack` makes of the files of the last commit.

comfy-cli packs what git tracks and `.comfyignore` does not name. It works on the folder it runs in, so it gets
a repository of its own with the files of HEAD: edits that are not committed and files of no account stay out.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

from .console import DevError
from .paths import ROOT
from .tools import comfy, output, tools_python

ARCHIVE = "node.zip"
LOCAL = (".git", ".d2f", ".venv", ".*_cache", "__pycache__", ARCHIVE)


def export(target: Path) -> Path:
    """A repository in `target` with the files of HEAD; a plain copy of the checkout where git has none."""
    files = git(ROOT, "archive", "--format=tar", "HEAD") if (ROOT / ".git").exists() else None
    if files is None:
        shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(*LOCAL))
        return target
    with tarfile.open(fileobj=io.BytesIO(files)) as tar:
        tar.extractall(target)
    for arguments in (["init", "--quiet"], ["add", "--all", "--force"]):
        if git(target, *arguments) is None:
            raise DevError(f"git {arguments[0]} failed in {target}; is this git older than the checkout's?")
    return target


def git(folder: Path, *arguments: str) -> bytes | None:
    """What git prints, or None where there is no git or it fails."""
    command = ["git", "-c", "safe.directory=*", "-c", "core.autocrlf=false", "-C", str(folder), *arguments]
    try:
        return subprocess.run(command, check=True, capture_output=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None


def validate(folder: Path) -> list[str]:
    """The lines that `comfy node validate` prints about the pack in `folder`."""
    return [line for line in comfy(folder, "node", "validate").splitlines() if line.strip()]


def pack(folder: Path) -> Path:
    """The archive that `comfy node pack` makes of the repository in `folder`."""
    said = comfy(folder, "node", "pack")
    archive = folder / ARCHIVE
    if not archive.is_file():
        raise DevError(f"comfy node pack made no {ARCHIVE} in {folder}; it said:\n{said}")
    return archive


def wheel(folder: Path, target: Path) -> Path:
    """The wheel that pip makes of the checkout in `folder`, in the folder `target`; nothing is downloaded."""
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(target)]
    output([str(tools_python()), "-m", "pip", "wheel", *options, str(folder)], "pip wheel", target.parent)
    made = list(target.glob("*.whl"))
    if len(made) != 1:
        raise DevError(f"pip wheel made {len(made)} wheels in {target}; there should be one")
    return made[0]


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack the archive as `folder`, as ComfyUI-Manager does it."""
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)
    return folder
