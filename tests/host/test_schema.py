"""The nodes as users meet them: names, tooltips, search words."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What saved graphs and the help rely on: a node that is not found by `find_nodes` is missing here.
NODES = sorted(path.stem for path in (ROOT / "web" / "docs").glob("*.md"))


@pytest.fixture(scope="module")
def classes(pack):
    async def load():
        extension = await pack.comfy_entrypoint()
        return await extension.get_node_list()

    # In a thread of its own: the browser tests leave a running event loop in this one.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(load())).result()


@pytest.fixture(scope="module", params=NODES)
def schema(request, classes):
    return next(cls for cls in classes if cls.__name__ == request.param).define_schema()


def all_inputs(inputs):
    """Inputs, and those nested in the options of dynamic combos."""
    for one in inputs:
        yield one
        for option in getattr(one, "options", None) or []:
            yield from all_inputs(getattr(option, "inputs", None) or [])


def test_the_nodes_are_there(classes):
    """Every node with a help page, and no other; a class has the name of its node."""
    assert len(NODES) > 15
    assert [cls.define_schema().node_id for cls in classes] == [cls.__name__ for cls in classes] == NODES


def test_ids_and_names(schema):
    assert schema.node_id.startswith("D2F")
    assert schema.display_name and schema.display_name != schema.node_id
    assert "Flow" in schema.display_name
    assert schema.category == "Diff2Flow"
    assert len(schema.description) > 40
    assert len(schema.search_aliases) >= 3
    assert not (schema.is_experimental or schema.is_deprecated)


def test_every_input_and_output_has_a_tooltip(schema):
    for one in (*all_inputs(schema.inputs), *schema.outputs):
        assert one.tooltip and len(one.tooltip) > 10, one
    for output in schema.outputs:
        assert output.display_name, output
    assert schema.outputs


def test_nested_inputs_are_found(classes):
    names = {one.id for cls in classes for one in all_inputs(cls.define_schema().inputs)}
    assert {"rtol", "atol", "max_nfe", "mean", "std", "scheduler", "shift"} <= names


def test_numbers_have_sane_defaults(schema):
    for one in all_inputs(schema.inputs):
        if isinstance(getattr(one, "default", None), int | float) and hasattr(one, "min"):
            assert one.min <= one.default <= one.max, one.id


def test_text_is_ascii(schema):
    texts = [schema.description, schema.display_name, *schema.search_aliases]
    texts += [one.tooltip for one in (*all_inputs(schema.inputs), *schema.outputs)]
    assert all(text.isascii() for text in texts)


def test_ids_collide_with_nothing_of_the_host(schema):
    import nodes

    assert schema.node_id not in nodes.NODE_CLASS_MAPPINGS
    assert schema.display_name not in nodes.NODE_DISPLAY_NAME_MAPPINGS.values()


def test_the_host_accepts_the_schema(classes):
    """What the host calls when it lists and validates nodes."""
    for cls in classes:
        cls.VALIDATE_CLASS()
        info = cls.GET_NODE_INFO_V1()
        assert info["python_module"] is not None or "display_name" in info
        assert cls.GET_SCHEMA().node_id == cls.define_schema().node_id
