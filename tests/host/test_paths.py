"""Widgets that take a path or a name, with everything that no file system can look up, and on a server of many."""

import importlib.util
import os
import re
import subprocess
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

HOME = os.path.expanduser("~")
# What is typed -> words of the refusal as a path and as a name; None where it is a fine name.
BAD = {
    "lone surrogate": ("a\ud800b", "lone surrogate", "lone surrogate"),
    "nul": ("a\0b", "ends a path", "ends a path"),
    "5,000 letters": ("x" * 5000, "5000 bytes|bytes; 4096 are allowed", "5000 bytes; 1000 are allowed"),
    "300 letters": ("x" * 300, "300 bytes; 255 are allowed", "300 bytes; 100 are allowed"),
    "300 emoji": ("\U0001f600" * 300, "bytes; 255 are allowed", "bytes; 1000 are allowed|bytes; 100 are allowed"),
    "2,000 levels": ("a/" * 2000 + "a", "bytes; 4096 are allowed|is not a folder|cannot be read", "1000 are allowed"),
    "nobody's home": ("~nobody-at-all/x", "home folder of a user that does not exist", None),
    "the root": ("/", "holds everything|cannot be read .it is not a file", "is empty, starts or ends with /"),
    "the home folder": (HOME, "holds everything|cannot be read .it is not a file", "is empty, starts or ends with /"),
    "the home folder, short": ("~", "holds everything|cannot be read .it is not a file", None),
    "no such folder": ("/nowhere/at/all", "is not a folder|cannot be read", "is empty, starts or ends with /"),
}


@pytest.fixture
def output(comfy, tmp_path, monkeypatch):
    import folder_paths

    for name in ("input", "output", "temp"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(folder_paths, f"{name}_directory", str(tmp_path / name))
    return tmp_path / "output"


@pytest.fixture
def shared(comfy, monkeypatch):
    """`shared("0.0.0.0")`: the server listens there."""
    from comfy.cli_args import args

    return lambda address="0.0.0.0": monkeypatch.setattr(args, "listen", address)


def defaults(node):
    return {one.id: one.default for one in node.define_schema().inputs if getattr(one, "default", None) is not None}


@pytest.fixture
def call(node, output, build, conditioning, checkpoint):
    """`call("D2FFolderDataset", "folder", value)`: run a node with that value in a widget, all else being fine."""
    (output.parent / "input" / "fine").mkdir()
    Image.new("RGB", (64, 64)).save(output.parent / "input" / "fine" / "a.png")

    def run(name, widget, value):
        cls = node(name)
        cls.hidden = SimpleNamespace(unique_id="7")
        values = defaults(cls)
        if name == "D2FFolderDataset":
            return cls.execute(
                checkpoint[1], checkpoint[2], **{**values, "folder": "fine", widget: value, "caption": "x"}
            )
        if name == "D2FPairedFolder":
            chosen = {"target_values": {"target_values": "color"}, "images": "fine", "targets": "fine", widget: value}
            return cls.execute(**{**values, **chosen})
        if name == "D2FSaveLora":
            return cls.execute({"lora_unet_a.diff": torch.ones(2)}, value, "fp32")
        if name == "D2FLoadPairs":
            return cls.execute(value)
        if name == "D2FLoadLora":
            return cls.execute(build(), value, 1.0)
        if name == "D2FReflowPairs":
            small = {"width": 64, "height": 64, "count": 1, "steps": 1, "cfg": 1.0, widget: value}
            linked = {"positive": [conditioning[0]]} if widget == "name" else {"clip": [None]}
            return cls.execute([build()], **{key: [one] for key, one in {**values, **small}.items()}, **linked)
        quick = {"steps": 1, "rank": 1, "preview_every": 0, widget: value}
        wrapped = {key: [one] for key, one in {**values, **quick}.items()}
        return cls.execute([build()], [{"samples": torch.zeros(1, 4, 8, 8)}], [conditioning[0]], **wrapped)

    return run


@pytest.fixture(scope="module")
def checkpoint(pack):
    from diff2flow_kit.demo.networks import load_demo_checkpoint

    return load_demo_checkpoint()


PATHS = [
    ("D2FFolderDataset", "folder"),
    ("D2FFolderDataset", "more_folders"),
    ("D2FPairedFolder", "images"),
    ("D2FPairedFolder", "targets"),
    ("D2FReflowPairs", "prompt_file"),
]
TEXT_NAMES = [("D2FReflowPairs", "name"), ("D2FSaveLora", "filename"), ("D2FTrainLora", "run_name")]
NAMES = [*TEXT_NAMES, ("D2FLoadPairs", "pairs")]
NO_PATHS = {
    "prompts",
    "negative",
    "caption",
    "prefix",
    "target_pattern",
    "layer_rules",
    "prompt",
    "text",
    "caption_extension",
    "more_resolutions",
}


def test_every_text_widget_is_in_the_lists(schemas):
    """A new one is a path, a name, or neither."""
    from devtools.schemas import walk

    found = {
        (node, name.split(".")[-1])
        for node, schema in schemas.items()
        for name, one in walk(schema.inputs)
        if one.io_type == "STRING"
    }
    assert {(node, name) for node, name in found if name not in NO_PATHS} == {*PATHS, *TEXT_NAMES}


@pytest.mark.parametrize(("name", "widget"), PATHS)
@pytest.mark.parametrize("bad", BAD)
def test_a_path_that_cannot_be_is_refused_by_the_name_of_its_widget(call, name, widget, bad):
    value, words, _ = BAD[bad]
    with pytest.raises(ValueError, match=words) as error:
        call(name, widget, value)
    assert str(error.value).startswith(widget) and len(str(error.value)) < 10_000


@pytest.mark.parametrize(("name", "widget"), NAMES)
@pytest.mark.parametrize("bad", [bad for bad in BAD if BAD[bad][2]])
def test_a_name_that_cannot_be_is_refused(call, output, name, widget, bad):
    value, _, words = BAD[bad]
    with pytest.raises(ValueError, match=words) as error:
        call(name, widget, value)
    assert "name" in str(error.value) and len(str(error.value)) < 1000
    assert not list(output.rglob("*.safetensors")) and not list(output.rglob("settings.json"))


@pytest.mark.parametrize("bad", [bad for bad in BAD if bad != "the home folder, short"])
def test_a_lora_that_cannot_be_is_refused(call, bad):
    with pytest.raises(ValueError, match="there is no LoRA"):
        call("D2FLoadLora", "lora", BAD[bad][0])


@pytest.mark.parametrize("name", ["D2FFolderDataset", "D2FPairedFolder", "D2FLoadPairs", "D2FLoadLora"])
@pytest.mark.parametrize("bad", BAD)
def test_fingerprints_raise_nothing(node, output, name, bad):
    widget = {**dict(PATHS), **dict(NAMES), "D2FLoadLora": "lora"}[name]
    for value in (BAD[bad][0], "", " ", "''"):
        assert isinstance(node(name).fingerprint_inputs(**{widget: value}), str)


# A folder that is too large


@pytest.fixture
def walking(monkeypatch):
    from diff2flow_kit.d2f_data.files import walk

    return lambda **limits: [monkeypatch.setattr(walk, name, value) for name, value in limits.items()]


@pytest.mark.parametrize(("name", "widget"), PATHS[:3])
@pytest.mark.parametrize(
    ("limits", "words"),
    [({"MOST_ENTRIES": 7}, "more than 7 files and folders"), ({"MOST_LEVELS": 2}, "folders more than 2 levels deep")],
)
def test_a_folder_that_is_too_large_is_refused_with_the_limit(call, node, output, walking, name, widget, limits, words):
    large = output.parent / "input" / "large"
    for number in range(3):
        (large / "a" / "b" / f"c{number}").mkdir(parents=True)
        Image.new("RGB", (64, 64)).save(large / "a" / f"{number}.png")
    walking(**limits)
    with pytest.raises(ValueError, match=rf"the folder .*large has {words}, which is no training set; choose") as error:
        call(name, widget, "large")
    assert "large" in str(error.value)
    states = {node(name).fingerprint_inputs(**{widget: "large"}) for _ in range(2)}
    assert len(states) == 2  # unknown, so the node runs and says why


def test_a_fingerprint_does_not_hang(node, output, monkeypatch, part):
    """A disk on which looking through a folder takes an hour."""
    (output.parent / "input" / "slow").mkdir()
    monkeypatch.setattr(part("datasets.folders"), "SECONDS_TO_LOOK", -1.0)
    states = {node("D2FFolderDataset").fingerprint_inputs(folder="slow") for _ in range(2)}
    assert len(states) == 2 and all(state.startswith("unknown") for state in states)


# A server that others reach


@pytest.mark.parametrize(
    ("address", "is_shared"),
    [
        ("127.0.0.1", False), ("localhost", False), ("::1", False), ("127.2.2.2,127.3.3.3", False),
        ("0.0.0.0", True), ("0.0.0.0,::", True), ("127.0.0.1,192.168.1.5", True), ("example.org", True), ("", True),
    ],
)  # fmt: skip
def test_who_reaches_the_server(host, part, shared, address, is_shared):
    shared(address)
    assert part("host.folders").is_shared() is is_shared


def test_several_users_share_a_server(part, shared, monkeypatch):
    from comfy.cli_args import args

    shared("127.0.0.1")
    monkeypatch.setattr(args, "multi_user", True, raising=False)
    assert part("host.folders").is_shared()


@pytest.mark.parametrize(("name", "widget"), PATHS)
@pytest.mark.parametrize("way", ["absolute", "dots", "link"])
def test_a_shared_server_reads_its_own_folders_only(call, output, shared, name, widget, way):
    secret = output.parent / "secret"
    secret.mkdir()
    (secret / "secret.txt").write_text("the password")
    (output.parent / "input" / "link").symlink_to(secret)
    value = {"absolute": str(secret), "dots": "../secret", "link": "link"}[way]
    value += "/secret.txt" if widget == "prompt_file" else ""
    shared()
    with pytest.raises(ValueError, match="may not be read, as others can reach this server") as error:
        call(name, widget, value)
    text = str(error.value)
    assert text.startswith(widget) and "listens on 0.0.0.0" in text and "the password" not in text
    assert "extra_model_paths.yaml" in text and "diff2flow: /the/folder" in text
    with pytest.raises(ValueError, match="may not be read"):  # nor does it tell what exists
        call(name, widget, f"{value}/missing")


@pytest.mark.parametrize("place", ["input", "output", "temp", "owner's", "datasets"])
def test_a_shared_server_reads_what_it_shows_and_what_its_owner_allows(host, output, shared, place, monkeypatch):
    import folder_paths

    root = output.parent / place
    (root / "photos").mkdir(parents=True)
    shared()
    if place in ("owner's", "datasets"):
        with pytest.raises(ValueError, match="may not be read"):
            host.user_path("folder", str(root / "photos"))
        category = "diff2flow" if place == "owner's" else "datasets"
        monkeypatch.setitem(folder_paths.folder_names_and_paths, category, ([str(root)], set()))
    assert host.user_path("folder", str(root / "photos")) == root / "photos"
    with pytest.raises(ValueError, match="may not be read"):
        host.user_path("folder", f"{root}-2")


def test_the_owner_allows_a_folder_in_extra_model_paths(host, host_path, output, shared, tmp_path, monkeypatch):
    """The very lines of the refusal."""
    import folder_paths

    # By its path: another module may be called utils by now.
    spec = importlib.util.spec_from_file_location("extra_config", host_path / "utils" / "extra_config.py")
    extra_config = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(extra_config)
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", dict(folder_paths.folder_names_and_paths))
    shared()
    with pytest.raises(ValueError, match="may not be read") as error:
        host.user_path("folder", str(tmp_path / "photos"))
    lines = str(error.value).split("restart:\n")[1].replace("/the/folder", str(tmp_path / "photos"))
    (tmp_path / "extra_model_paths.yaml").write_text(lines)
    extra_config.load_extra_path_config(str(tmp_path / "extra_model_paths.yaml"))
    assert host.user_path("folder", str(tmp_path / "photos" / "cats")) == tmp_path / "photos" / "cats"


def test_the_input_folder_may_be_a_link(host, output, shared, tmp_path, monkeypatch):
    import folder_paths

    (tmp_path / "elsewhere" / "photos").mkdir(parents=True)
    (tmp_path / "linked").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path / "linked"))
    shared()
    assert host.user_path("folder", "photos") == tmp_path / "elsewhere" / "photos"


def test_a_server_of_one_reads_any_folder(host, output, tmp_path):
    assert host.user_path("folder", f' "{tmp_path}/x/../y" ') == tmp_path / "y"
    assert host.user_path("folder", "~/photos") == type(tmp_path)(os.path.realpath(HOME)) / "photos"


# Files of prompts


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a\0b", "it is not a text file"),
        (b"\xff\xfea\0", "invalid start byte"),
        (b"\x89PNG\r\n\x1a\n\0", "invalid start byte"),
        (b"x" * 999, "0 MiB; 0 are allowed"),
    ],
)
def test_a_prompt_file_that_is_no_text_is_refused(call, output, part, monkeypatch, content, words):
    (output.parent / "input" / "x.txt").write_bytes(content)
    if len(content) > 99:
        monkeypatch.setattr(part("reflow.prompts"), "MAX_FILE_BYTES", 100)
    with pytest.raises(ValueError, match=rf"^prompt_file .*x\.txt cannot be read \(.*{re.escape(words)}"):
        call("D2FReflowPairs", "prompt_file", "x.txt")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no named pipes in its folders")
def test_a_pipe_is_no_prompt_file(call, output):
    subprocess.run(["mkfifo", str(output.parent / "input" / "pipe")], check=True)
    with pytest.raises(ValueError, match=r"pipe cannot be read \(it is not a file\)"):
        call("D2FReflowPairs", "prompt_file", "pipe")
