"""The nodes as users meet them: names, tooltips, search words."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What saved graphs and the help rely on: a node that is not found by `find_nodes` is missing here.
NODES = sorted(path.stem for path in (ROOT / "web" / "docs").glob("*.md"))
MENUS = ["Sample", "Train", "Reflow", "Image to image", "Demo"]
# What people type, and the nodes that it must find.
FINDS = {
    "lcm, turbo, lightning, hyper, fast, speed up, few steps, 1 step, \u52a0\u901f, \u5c11\u6b65, \u4e00\u6b65": [
        "D2FReflowPairs",
        "D2FTrainLora",
    ],
    "rectified flow, flow, \u6d41\u5339\u914d": ["D2FConvert", "D2FKSampler"],
    "train, style, dreambooth, \u8bad\u7ec3, \u98ce\u683c, \u753b\u98ce": ["D2FTrainLora", "D2FFolderDataset"],
    "depth map, \u6df1\u5ea6, \u6df1\u5ea6\u56fe": ["D2FDepthFromImage", "D2FDepthTarget"],
    "img2img, \u56fe\u751f\u56fe": ["D2FImageCondition", "D2FApplyCondition"],
}


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
    assert schema.display_name.endswith(" (Diff2Flow)")
    assert schema.category in {f"Diff2Flow/{menu}" for menu in MENUS}
    assert len(schema.description) > 40
    assert len(schema.search_aliases) >= 3
    assert not (schema.is_experimental or schema.is_deprecated)


@pytest.mark.parametrize(("words", "nodes"), FINDS.items(), ids=["few steps", "flow", "train", "depth", "image"])
def test_what_people_type_finds_a_node(words, nodes, classes):
    """Each word by itself, in whole, as the page's search takes it."""
    found = {cls.__name__: {alias.lower() for alias in cls.define_schema().search_aliases} for cls in classes}
    for word in words.split(", "):
        assert {node for node in nodes if word not in found[node]} == set(), word


def test_every_node_is_found_in_both_languages(schema):
    english = [word for word in schema.search_aliases if word.isascii()]
    assert len(english) >= 3 and len(schema.search_aliases) - len(english) >= 2
    assert len(set(schema.search_aliases)) == len(schema.search_aliases)


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
    texts = [schema.description, schema.display_name]
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


def test_the_host_may_call_a_node_under_another_class(schema, classes):
    """It runs a clone of the class, whose name is another one."""
    cls = next(cls for cls in classes if cls.__name__ == schema.node_id)
    assert cls.PREPARE_CLASS_CLONE(None).define_schema().node_id == schema.node_id
