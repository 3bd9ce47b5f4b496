"""What the registry gets: metadata, a clean `comfy node validate`, and the contents of the archive."""

import fnmatch
import json
import re
import struct
import zipfile

import pytest

from devtools.package import export, pack, validate

RAW = "https://raw.githubusercontent.com/diff2flow-kit/diff2flow-kit/main/"
WANTED = [
    "__init__.py", "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE",
    "nodes/__init__.py", "nodes/host/__init__.py", "d2f_core/__init__.py", "d2f_data/__init__.py",
    "demo/networks.py", "demo/scenes.py", "demo/weights/unet.safetensors",
    "demo/weights/unet_flow.safetensors", "demo/tokenizer/vocab.json",
    "workflows/01 Convert and sample.json", "workflows/01 Convert and sample.jpg", "web/docs/D2FConvert.md",
    "docs/math.md", "docs/diff2flow.py",
]  # fmt: skip
UNWANTED = [
    "tests/*", "benchmarks/*", "devtools/*", "dev.py", "docs/images/*", "docs/brand/*", ".*", "*/.*", "*.pyc",
    "demo/train_*", "demo/make_*", "demo/evaluate.py", "demo/training_log.jsonl", "CONTRIBUTING.md", "*.zip",
    "demo/world*", "demo/objectives.py", "demo/initial.py",
]  # fmt: skip
SHARED = ["d2f_core", "d2f_data", "d2f_diffusers", "nodes", "web", "workflows", "locales", "subgraphs"]
OPTIONAL = {
    "adaptive": {"torchdiffeq"},
    "optimizers": {"prodigyopt", "schedulefree", "bitsandbytes", "came-pytorch"},
    "diffusers": {"torch", "numpy", "pillow", "safetensors", "diffusers", "transformers"},
    "train": {"diff2flow-kit", "accelerate"},
    "datasets": {"diff2flow-kit", "datasets"},
}
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def project(root):
    """pyproject.toml as a dictionary."""
    toml = pytest.importorskip("tomllib", reason="Python 3.10 cannot read pyproject.toml")
    return toml.loads((root / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """The files of the last commit in a repository of their own."""
    return export(tmp_path_factory.mktemp("package") / "diff2flow-kit")


@pytest.fixture(scope="module")
def names(repository):
    """The names in the archive, as `comfy node pack` makes it."""
    with zipfile.ZipFile(pack(repository)) as archive:
        return archive.namelist()


def test_the_registry_knows_what_it_needs_to_know(project):
    about, comfy = project["project"], project["tool"]["comfy"]
    assert re.fullmatch(r"[a-z][a-z0-9-]{2,99}", about["name"]) and "comfy" not in about["name"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", about["version"])
    assert about["license"] == {"file": "LICENSE"} and about["description"]
    assert about["urls"]["Repository"] == "https://github.com/diff2flow-kit/diff2flow-kit"
    assert comfy["PublisherId"] and comfy["DisplayName"] == "Diff2Flow Kit"
    assert re.fullmatch(r">=\d+\.\d+\.\d+", comfy["requires-comfyui"])
    kinds = {name.split(" :: ")[0] for name in about["classifiers"]}
    assert {"Operating System", "Environment", "Programming Language", "License"} <= kinds


def test_the_oldest_host_that_is_asked_for_is_the_oldest_that_is_tested(project):
    from devtools.host import RELEASES

    oldest = min(RELEASES, key=lambda version: [int(part) for part in version.split(".")])
    assert project["tool"]["comfy"]["requires-comfyui"] == f">={oldest}"


def test_nothing_is_required_beyond_the_host(project, root):
    assert project["project"]["dependencies"] == []
    extras = project["project"]["optional-dependencies"]
    assert {extra: {re.split(r"[\[<>=]", name)[0] for name in names} for extra, names in extras.items()} == OPTIONAL
    assert not (root / "requirements.txt").exists() and not (root / "install.py").exists()


@pytest.mark.parametrize("key, shape", [("Icon", (1, 1)), ("Banner", (21, 9))])
def test_the_pictures_are_in_the_repository_and_of_the_registrys_shape(project, root, key, shape):
    url = project["tool"]["comfy"][key]
    assert url.startswith(RAW)
    file = root / url.removeprefix(RAW)
    data = file.read_bytes()
    assert data.startswith(b"\x89PNG") and file.with_suffix(".svg").is_file()
    width, height = struct.unpack(">II", data[16:24])
    assert width * shape[1] == height * shape[0]
    assert key != "Icon" or width <= 400


def test_one_version_everywhere(project, root):
    version = project["project"]["version"]
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (\d+\.\d+\.\d+)", changelog, re.MULTILINE).group(1) == version
    graphs = [*(root / "workflows").glob("*.json"), *(root / "subgraphs").glob("*.json")]
    versions = {found for path in graphs for found in versions_of(json.loads(path.read_text(encoding="utf-8")))}
    assert graphs and versions <= {version}


def versions_of(value):
    """Every `ver` beside a `cnr_id` of this pack, anywhere in a saved graph."""
    if isinstance(value, dict):
        if value.get("cnr_id") == "diff2flow-kit":
            yield value.get("ver")
        value = list(value.values())
    for child in value if isinstance(value, list) else []:
        yield from versions_of(child)


def test_the_registrys_check_has_nothing_to_say(repository):
    """comfy-cli only warns, so every line that it prints has to be one that is known to be good."""
    lines = validate(repository)
    assert [line.lstrip("\u2713 ") for line in lines] == [
        "Validating node configuration...",
        "Running security checks...",
        "All validation checks passed successfully",
    ]


def test_a_pack_with_faults_is_complained_about(repository, tmp_path):
    """The test above can fail: each of these makes the check print a line more."""
    text = (repository / "pyproject.toml").read_text(encoding="utf-8")
    faults = [
        ('requires-comfyui = ">=0.16.3"', 'requires-comfyui = ">=0.16"'),
        ('license = { file = "LICENSE" }', "license = {}"),
        ('"Environment :: GPU :: AMD ROCm"', '"Environment :: GPU :: AMD"'),
    ]
    for number, (right, wrong) in enumerate(faults):
        folder = tmp_path / str(number) / "pack"
        folder.mkdir(parents=True)
        assert right in text
        (folder / "pyproject.toml").write_text(text.replace(right, wrong), encoding="utf-8")
        assert any("Warning" in line for line in validate(folder)), wrong


def test_the_archive_holds_the_pack(names, root):
    assert not set(WANTED) - set(names)
    assert len(names) == len(set(names))


@pytest.mark.parametrize("room", SHARED)
def test_every_file_of_a_room_is_in_the_archive(names, repository, room):
    files = [path for path in (repository / room).rglob("*") if path.is_file()]
    assert files
    assert not {path.relative_to(repository).as_posix() for path in files} - set(names)


def test_the_archive_holds_nothing_else(names):
    assert [name for name in names for pattern in UNWANTED if fnmatch.fnmatch(name, pattern)] == []


def test_the_archive_is_small(names, repository):
    """14 of its 14.2 MB are the demo model's weights; more would make every installation slow."""
    assert pack(repository).stat().st_size < 36 * MEGABYTE
