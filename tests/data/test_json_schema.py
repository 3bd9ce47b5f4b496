"""Everything that is read as JSON, with wrong types, wrong values, 5,000 levels, nothing, and no UTF-8."""

import json
import re
import shutil

import pytest
import torch
from PIL import Image

from diff2flow_kit.d2f_data.files.atomic import load_tensors, save_tensors
from diff2flow_kit.d2f_data.files.json_schema import (
    InvalidJsonError,
    anything,
    list_of,
    number,
    parse_json,
    read_json,
    record,
    row,
    scalar,
    text,
    whole,
)
from diff2flow_kit.d2f_data.files.lock import WriterLock
from diff2flow_kit.d2f_data.files.lora_file import LoraFacts, LoraModel, load_lora, save_lora
from diff2flow_kit.d2f_data.files.run_folder import RunFolder
from diff2flow_kit.d2f_data.files.training_state import load_state, save_state
from diff2flow_kit.d2f_data.image_sets.folder import Captions, find_training_images
from diff2flow_kit.d2f_data.image_sets.latent_cache import Cache, pack_conditioning
from diff2flow_kit.d2f_data.reflow.pair_set import ReflowPairSet
from diff2flow_kit.d2f_data.reflow.plan import ReflowPairPlan
from diff2flow_kit.d2f_data.reflow.writer import ReflowPairWriter

LEVELS = 5000
BAD = {
    "empty": b"",
    "cut": b'{"a": ',
    "not UTF-8": b'{"a": "\xff\xfe"}',
    "list": b"[]",
    "null": b"null",
    "number": b"7",
    "text": b'"x"',
    "deep list": b"[" * LEVELS + b"]" * LEVELS,
    "deep object": b'{"a": ' * LEVELS + b"1" + b"}" * LEVELS,
    "deep dict": b'{"dict": [["a", ' * LEVELS + b"1" + b"]]}" * LEVELS,
    "huge number": b'{"format": ' + b"9" * 5000 + b"}",
}
FACTS = LoraFacts("diff2flow", "eps", "ab", "t_min", 1.0, "cd", "SD15", 5, 2, 2.0, "lora", {"seed": 7})
PLAN = ReflowPairPlan((4, 3, 5), 10, 7, {"cfg": 3.0}, shard_size=4)


@pytest.mark.parametrize("content", BAD.values(), ids=BAD.keys())
def test_a_text_that_is_not_what_it_should_be(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.json cannot be read as it is truncated or damaged .*; do this"):
        read_json(tmp_path / "x.json", record({"a": whole(1)}), "do this")


@pytest.mark.parametrize(
    ("rule", "good", "bad", "words"),
    [
        (whole(1), ["1", "9"], ["0", "1.0", "true", "null", '"1"', "[1]", "1e400"], r"must be a whole number >= 1"),
        (whole(0, 5), ["5"], ["6", "-1"], "a whole number from 0 to 5"),
        (number(0), ["0", "0.5", "3"], ["-1", "NaN", "Infinity", "true", '"1"'], "must be a (finite )?number"),
        (text(), ['"a"', '""'], ["1", "null"], "must be text"),
        (text(("a", "b")), ['"a"'], ['"c"', "1"], "must be one of 'a', 'b'"),
        (scalar, ["null", "1", "true", '"x"', "0.5"], ["[]", "{}"], "must be text, a number"),
        (list_of(whole(0)), ["[]", "[1]"], ["{}", "[1, -1]"], "must be a"),
        (row(text(), whole(0)), ['["a", 0]'], ["[]", '["a"]', '["a", 0, 1]', '["a", "b"]', '"ab"'], "must be a"),
        (record({"a": whole(0)}, {"b": text()}), ['{"a": 1}', '{"a": 1, "b": "", "c": []}'], ["{}", '{"a": 1, "b": 2}'],
         "lacks the key 'a'|'b' is 2"),
        (record({}, rest=scalar), ["{}", '{"a": 1}'], ['{"a": []}', "[]"], "must be"),
    ],
)  # fmt: skip
def test_rules(rule, good, bad, words):
    for one in good:
        assert parse_json(one, rule) == json.loads(one)
    for one in bad:
        with pytest.raises(InvalidJsonError, match=words):
            parse_json(one, rule)


def test_a_depth_that_python_could_read_is_refused_as_well():
    """Checks call themselves for every level, and so does what reads a state."""
    assert parse_json("[" * 100 + "]" * 100, anything)
    with pytest.raises(InvalidJsonError, match="nested more than 100 levels deep"):
        parse_json("[" * 101 + "]" * 101, anything)


def test_an_error_names_the_place_and_a_short_value():
    rule = record({"shards": list_of(row(text(), whole(0)))})
    with pytest.raises(InvalidJsonError, match=r"^'shards'\[1\]\[0\] is \[1, 2, .{30,60}\.\.\., but must be text$"):
        parse_json(json.dumps({"shards": [["a", 1], [list(range(1, 999)), 2]]}), rule)


def write_pairs(folder, stop=None):
    with ReflowPairWriter(folder, PLAN, ["x"], [{"c": torch.zeros(1, 2, 6)}]) as writer:
        for items in writer.missing(2):
            writer.add(items, PLAN.noise(items), PLAN.noise(items))
            if stop is not None and items[-1] >= stop:
                return


# Reader: (folder) -> what is damaged, a function that puts a text there, and one that reads it.


def settings(folder):
    path = RunFolder(folder, "a", {"rank": 1}).path / "settings.json"
    return "settings.json", path.write_bytes, lambda: RunFolder(folder, "a", {"rank": 1}, "continue")


def manifest(folder):
    write_pairs(folder)
    return "manifest.json", (folder / "manifest.json").write_bytes, lambda: ReflowPairSet(folder)


def progress(folder):
    write_pairs(folder, stop=5)
    return "progress.json", (folder / "progress.json").write_bytes, lambda: ReflowPairSet(folder)


def metadata_of(path, key):
    """A function that puts a text into the metadata of a safetensors file."""
    tensors, metadata = load_tensors(path)
    return lambda content: save_tensors(path, tensors, {**metadata, key: content.decode("utf-8", "replace")})


def lora(name):
    def reader(folder):
        path = folder / "x.safetensors"
        save_lora(path, LoraModel({"lora_unet_a.diff": torch.ones(2)}, FACTS))
        return path.name, metadata_of(path, f"diff2flow.{name}"), lambda: load_lora(path)

    return reader


def state(key):
    def reader(folder):
        path = folder / "state.safetensors"
        save_state(path, {"a": [torch.ones(1), 0.5]}, {"rank": 1})
        return path.name, metadata_of(path, f"diff2flow.{key}"), lambda: load_state(path)

    return reader


READERS = {
    "settings": settings,
    "manifest": manifest,
    "progress": progress,
    **{f"LoRA {name}": lora(name) for name in ("format", "shift", "steps", "rank", "alpha", "training")},
    "state's structure": state("structure"),
    "state's config": state("config"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("bad", BAD)
def test_every_reader_names_its_file(tmp_path, reader, bad):
    name, put, read = READERS[reader](tmp_path)
    put(BAD[bad])
    with pytest.raises(ValueError, match=re.escape(name)) as error:
        read()
    assert type(error.value) is ValueError and len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("shape", "abc"), ("shape", "4x0"), ("shape", ""), ("shape", 4), ("shape", None), ("shape", "4x3x99"),
        ("shard_size", 0), ("shard_size", -4), ("shard_size", 4.0), ("shard_size", "4"), ("shard_size", 5),
        ("storage", "fp8"), ("storage", None), ("seed", "x"), ("cfg", 7.0), ("cfg", []), ("steps", 0),
    ],
)  # fmt: skip
def test_a_manifest_with_other_settings_is_never_read(tmp_path, key, value):
    """cfg 7 instead of 3 is a fine value; the shards say that it is not theirs."""
    write_pairs(tmp_path)
    path = tmp_path / "manifest.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "settings": {**values["settings"], key: value}}))
    with pytest.raises(ValueError, match=r"manifest\.json|shard-0000\d"):
        ReflowPairSet(tmp_path).read([0, 9])


@pytest.mark.parametrize(
    "change",
    [
        {"count": 0}, {"count": 11}, {"count": 10.5}, {"count": 10**18}, {"prompts": "abc"}, {"prompts": [1]},
        {"conditions": ["conditions.safetensors", "", 1, 0]}, {"conditions": ["../x", "", 1, 1]}, {"conditions": []},
        {"shards": []}, {"shards": [["../shard-00000.safetensors", "", 1, 10]]}, {"shards": {}}, {"shards": [[]]},
        {"format": 0}, {"format": True}, {"settings": {}}, {"settings": []},
    ],
)  # fmt: skip
def test_a_manifest_with_other_values_is_never_read(tmp_path, change):
    write_pairs(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=r"manifest\.json.* run Generate Reflow Pairs again"):
        ReflowPairSet(tmp_path)


@pytest.mark.parametrize(
    "node",
    [
        [], 0.5, {}, {"tensor": 1}, {"tensor": "state/b"}, {"float": "zz"}, {"float": "00" * 7}, {"set": []},
        {"dict": {"a": 1}}, {"dict": [["a"]]}, {"dict": [[[], 1]]}, {"dict": [[True, 1]]}, {"list": 1},
        {"list": [], "tuple": []}, {"tuple": [{"list": [[]]}]},
    ],
)  # fmt: skip
def test_a_structure_of_anything_else_is_damaged(tmp_path, node):
    _, put, read = state("structure")(tmp_path)
    put(json.dumps(node).encode())
    with pytest.raises(ValueError, match=r"state\.safetensors is damaged"):
        read()


@pytest.mark.parametrize("bad", BAD)
def test_the_cached_checksums_are_only_a_cache(tmp_path, bad):
    write_pairs(tmp_path)
    for content in (BAD[bad], b'{"shard-00000.safetensors": [1]}', b'{"shard-00000.safetensors": "abc"}'):
        (tmp_path / "checked.json").write_bytes(content)
        assert len(ReflowPairSet(tmp_path).read([0, 9]).eps) == 2


@pytest.mark.parametrize("bad", BAD)
def test_a_lock_whose_text_is_damaged_is_still_a_lock(tmp_path, bad):
    path = tmp_path / "x.lock"
    with WriterLock(path, "the set is", "choose another name"):
        path.write_bytes(BAD[bad])
        with pytest.raises(ValueError, match=r"^the set is being written by .*choose another name$") as error:  # noqa: SIM117
            with WriterLock(path, "the set is", "choose another name"):
                pass
        assert len(str(error.value)) < 300
    with WriterLock(path, "the set is", "choose another name"):
        pass


@pytest.mark.parametrize("bad", BAD)
def test_a_damaged_line_of_captions_is_listed(tmp_path, bad):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_bytes(BAD[bad] + b'\n{"file": "a.png", "caption": "fine"}\n')
    images, invalid = find_training_images(tmp_path, Captions("jsonl"))
    if bad == "empty":
        assert [image.caption for image in images] == ["fine"] and not invalid
    else:
        assert any(file.name.startswith("metadata.jsonl") for file in invalid)


@pytest.mark.parametrize("bad", [*BAD, "options swapped", "an option changed"])
def test_a_cached_caption_with_damaged_options_is_encoded_again(tmp_path, bad):
    cache = Cache(tmp_path)
    tensors, metadata = pack_conditioning([[torch.ones(1, 2), {"width": 512}], [torch.ones(1, 2), {}]])
    cache.save("ab12", tensors, metadata)
    assert cache.contains("ab12")
    changed = {"options swapped": b'[{"width": 512}]', "an option changed": b'[{"width": 513}, {}]'}.get(bad)
    put = metadata_of(cache.path("ab12"), "options")
    put(BAD.get(bad, changed))
    assert not cache.contains("ab12")
    stored, given = load_tensors(cache.path("ab12"))
    del given["metadata_sha256"]  # a file of an earlier version
    save_tensors(cache.path("ab12"), stored, given)
    assert cache.contains("ab12") is (bad == "an option changed")


def test_files_of_earlier_versions_are_in_the_rules(tmp_path, root):
    shutil.copytree(root / "tests" / "fixtures" / "before_rooms", tmp_path / "old")
    assert len(ReflowPairSet(tmp_path / "old" / "pairs" / "before").read([0, 3]).eps) == 2
    assert load_state(tmp_path / "old" / "runs" / "before" / "state.safetensors")[1]["rank"] == 2
    for path in (tmp_path / "old" / "loras").glob("*.safetensors"):
        assert load_lora(path).facts is not None
