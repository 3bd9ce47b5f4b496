"""The schemas are those that saved graphs were made with: tests/host/schemas.json holds them."""

import pytest

from devtools.console import DevError
from devtools.schemas import breaks, describe
from devtools.snapshot import COMMAND, LOCALES, ROOT, SNAPSHOT, read, text, write


@pytest.fixture(scope="module")
def described(schemas):
    return {node: describe(schema) for node, schema in schemas.items()}


def test_saved_graphs_still_open(described):
    assert breaks(read(SNAPSHOT), described) == []


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


def test_the_command_writes_what_the_repository_has(schemas, tmp_path):
    write(schemas, tmp_path)
    for path in (SNAPSHOT, LOCALES / "en" / "nodeDefs.json", LOCALES / "en" / "main.json"):
        assert read(tmp_path / path.relative_to(ROOT)) == read(path)


def test_the_command_refuses_what_breaks_saved_graphs(schemas, tmp_path):
    snapshot = tmp_path / SNAPSHOT.relative_to(ROOT)
    snapshot.parent.mkdir(parents=True)
    snapshot.write_text(text({**read(SNAPSHOT), "D2FGone": {"inputs": [], "outputs": []}}), encoding="utf-8")
    with pytest.raises(DevError, match="D2FGone is gone"):
        write(schemas, tmp_path)
    assert "D2FGone" in read(snapshot) and not (tmp_path / "locales").exists()
    snapshot.write_text(text(read(SNAPSHOT)), encoding="utf-8")
    write(schemas, tmp_path)
    assert read(snapshot) == read(SNAPSHOT)
