"""The schemas are those that saved graphs were made with: tests/host/schemas.json holds them."""

import pytest

from devtools.schemas import breaks, describe
from devtools.snapshot import COMMAND, SNAPSHOT, read


@pytest.fixture(scope="module")
def described(schemas):
    return {node: describe(schema) for node, schema in schemas.items()}


def test_saved_graphs_still_open(described, host):
    renamed = [rename.old for rename in host.replacement.RENAMES]
    assert breaks(read(SNAPSHOT), described, renamed) == []


def test_the_snapshot_is_up_to_date(described):
    old = read(SNAPSHOT)
    assert [node for node in {**old, **described} if old.get(node) != described.get(node)] == [], f"run `{COMMAND}`"


def test_nested_widgets_are_in_it():
    (grid,) = (one for one in read(SNAPSHOT)["D2FScheduler"]["inputs"] if one["id"] == "grid")
    assert [one["id"] for one in grid["options"]["logit_normal"]] == ["mean", "std"]


def test_lists_of_files_are_not():
    (lora,) = (one for one in read(SNAPSHOT)["D2FLoadLora"]["inputs"] if one["id"] == "lora")
    assert lora["type"] == "COMBO" and "options" not in lora


def test_what_the_page_gets_is_what_was_described(described, pack, schemas):
    """The host's own description of a node names the same inputs, the required ones first."""
    import comfy_api.latest

    for node, schema in schemas.items():
        info = schema.get_v1_info(comfy_api.latest.io.ComfyNode)
        served = [name for group in ("required", "optional") for name in info.input.get(group, {})]
        assert served == [one["id"] for one in sorted(described[node]["inputs"], key=lambda one: one["optional"])]
        assert list(info.output) == [one["type"] for one in described[node]["outputs"]]
