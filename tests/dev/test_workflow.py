"""A saved graph becomes the prompt that the editor would send."""

import pytest

from devtools.console import DevError
from devtools.workflow import DYNAMIC_COMBO, to_prompt, widget_count

OPTIONS = [
    {"key": "fixed", "inputs": {"required": {"steps": ["INT", {}], "noise_seed": ["INT", {}]}}},
    {"key": "adaptive", "inputs": {"required": {"rtol": ["FLOAT", {}]}, "optional": {"m": ["MODEL"]}}},
]
OBJECT_INFO = {
    "Loader": {"input": {"required": {"name": [["a.safetensors", "b.safetensors"]]}}},
    "Picture": {"input": {"required": {"image": [["a.png"], {"image_upload": True}], "name": ["STRING", {}]}}},
    "Sampler": {
        "input": {
            "required": {
                "model": ["MODEL"],
                "seed": ["INT", {"default": 0, "control_after_generate": True}],
                "steps": ["INT", {"default": 20}],
                "method": ["COMBO", {"options": ["euler", "heun"]}],
            },
            "optional": {
                "cfg": ["FLOAT", {"default": 1.5}],
                "mask": ["MASK"],
                "strength": ["FLOAT", {"forceInput": True}],
            },
        },
        "input_order": {"required": ["model", "seed", "steps", "method"], "optional": ["cfg", "mask", "strength"]},
    },
    "Solver": {"input": {"required": {"solver": [DYNAMIC_COMBO, {"options": OPTIONS}], "name": ["STRING", {}]}}},
}


def node(id, type, values=None, inputs=(), mode=0, outputs=("MODEL",)):
    return {
        "id": id,
        "type": type,
        "mode": mode,
        "widgets_values": values,
        "inputs": [{"name": name, "type": kind, "link": link} for name, kind, link in inputs],
        "outputs": [{"type": kind} for kind in outputs],
    }


def convert(*nodes, links=()):
    return to_prompt({"nodes": list(nodes), "links": list(links)}, OBJECT_INFO)


LOADER = node(1, "Loader", ["b.safetensors", "image"])
SAMPLER = [7, "randomize", 12, "heun", 3.0]


def sampler(link, **more):
    return node(3, "Sampler", SAMPLER, [("model", "MODEL", link)], **more)


def test_widget_values_get_their_names_and_links_become_references():
    prompt = convert(LOADER, sampler(10), links=[[10, 1, 0, 3, 0, "MODEL"]])
    assert prompt["1"] == {"class_type": "Loader", "inputs": {"name": "b.safetensors"}}
    assert prompt["3"] == {
        "class_type": "Sampler",
        "inputs": {"seed": 7, "steps": 12, "method": "heun", "cfg": 3.0, "model": ["1", 0]},
    }


def test_links_may_be_objects():
    link = {"id": 10, "origin_id": 1, "origin_slot": 0, "target_id": 3, "target_slot": 0, "type": "MODEL"}
    assert convert(LOADER, sampler(10), links=[link])["3"]["inputs"]["model"] == ["1", 0]


def test_a_link_wins_over_the_widget_it_replaces():
    inputs = [("model", "MODEL", None), ("steps", "INT", 11)]
    prompt = convert(LOADER, node(3, "Sampler", SAMPLER, inputs), links=[[11, 1, 2, 3, 1, "INT"]])
    assert prompt["3"]["inputs"] == {"seed": 7, "steps": ["1", 2], "method": "heun", "cfg": 3.0}


def test_a_missing_trailing_value_takes_the_default():
    assert convert(node(3, "Sampler", SAMPLER[:-1]))["3"]["inputs"]["cfg"] == 1.5


def test_values_by_name_are_taken_as_they_are():
    assert convert(node(1, "Loader", {"name": "a.safetensors"}))["1"]["inputs"] == {"name": "a.safetensors"}


def test_notes_reroutes_and_what_is_off_stay_out():
    prompt = convert(
        LOADER,
        node(2, "Reroute", None, [("", "*", 10)]),
        node(4, "MarkdownNote", ["hello"]),
        node(5, "Loader", ["a.safetensors"], mode=2),
        sampler(12),
        links=[[10, 1, 0, 2, 0, "*"], [12, 2, 0, 3, 0, "MODEL"]],
    )
    assert set(prompt) == {"1", "3"}
    assert prompt["3"]["inputs"]["model"] == ["1", 0]


def test_a_bypassed_node_hands_on_its_input_of_the_same_type():
    inputs = [("mask", "MASK", 9), ("model", "MODEL", 10)]
    prompt = convert(
        LOADER,
        node(2, "Loader", ["a.safetensors"], inputs, mode=4),
        sampler(12),
        links=[[9, 8, 0, 2, 0, "MASK"], [10, 1, 0, 2, 1, "MODEL"], [12, 2, 0, 3, 0, "MODEL"]],
    )
    assert prompt["3"]["inputs"]["model"] == ["1", 0]


def test_a_link_from_a_muted_node_is_no_link():
    prompt = convert(node(1, "Loader", ["a.safetensors"], mode=2), sampler(10), links=[[10, 1, 0, 3, 0, "MODEL"]])
    assert "model" not in prompt["3"]["inputs"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["fixed", 8, 5, "fixed", "x"], {"solver": "fixed", "solver.steps": 8, "solver.noise_seed": 5, "name": "x"}),
        (["adaptive", 1e-3, "x"], {"solver": "adaptive", "solver.rtol": 1e-3, "name": "x"}),
    ],
)
def test_a_dynamic_combo_brings_the_widgets_of_its_choice(values, expected):
    assert convert(node(1, "Solver", values))["1"]["inputs"] == expected


def test_the_button_below_a_picture_has_a_value_that_means_nothing():
    prompt = convert(node(1, "Picture", ["a.png", "image", "x"]))
    assert prompt["1"]["inputs"] == {"image": "a.png", "name": "x"}


@pytest.mark.parametrize(
    ("type", "values", "count"),
    [
        ("Sampler", SAMPLER, 5),
        ("Sampler", SAMPLER[:-1], 5),
        ("Sampler", [*SAMPLER, 1], 5),
        ("Sampler", None, 5),
        ("Solver", ["fixed", 8, 5, "fixed", "x"], 5),
        ("Solver", ["adaptive", 1e-3, "x"], 3),
        ("Picture", ["a.png", "image", "x"], 3),
    ],
)
def test_a_node_says_how_many_values_it_should_have(type, values, count):
    assert widget_count(node(1, type, values), OBJECT_INFO[type]) == count


def test_an_unknown_node_is_named():
    with pytest.raises(DevError, match="node 1 is a Stranger, which this ComfyUI does not have"):
        convert(node(1, "Stranger"))


# --- Subgraphs ------------------------------------------------------------------------------------


def subgraph(id, *nodes, links=(), inputs=(), outputs=()):
    """inputs and outputs: (name, type, ids of links)."""
    slots = {
        key: [{"name": name, "type": kind, "linkIds": list(ids)} for name, kind, ids in slots]
        for key, slots in (("inputs", inputs), ("outputs", outputs))
    }
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    return {"id": id, "nodes": list(nodes), "links": [dict(zip(names, link)) for link in links], **slots}


def inner_sampler(link, steps=None, seed=None, **more):
    """The sampler with sockets at its widgets, as the editor saves it."""
    inputs = [("model", "MODEL", link), ("steps", "INT", steps), ("seed", "INT", seed)]
    result = node(5, "Sampler", SAMPLER, inputs, **more)
    for socket in result["inputs"][1:]:
        socket["widget"] = {"name": socket["name"]}
    return result


# model and steps come from outside, seed is promoted; a second output hands on a loader inside.
SAMPLING = subgraph(
    "S",
    inner_sampler(1, 2, 3),
    node(6, "Loader", ["b.safetensors"]),
    links=[
        (1, -10, 0, 5, 0, "MODEL"),
        (2, -10, 1, 5, 1, "INT"),
        (3, -10, 2, 5, 2, "INT"),
        (4, 5, 0, -20, 0, "MODEL"),
        (5, 6, 0, -20, 1, "MODEL"),
    ],
    inputs=[("model", "MODEL", [1]), ("steps", "INT", [2]), ("seed", "INT", [3])],
    outputs=[("model", "MODEL", [4]), ("second", "MODEL", [5]), ("nothing", "MODEL", [])],
)


def expand(*nodes, links=(), definitions=(SAMPLING,)):
    graph = {"nodes": list(nodes), "links": list(links), "definitions": {"subgraphs": list(definitions)}}
    return to_prompt(graph, OBJECT_INFO)


def sampling(values, model=None, steps=None, mode=0, id=9):
    inputs = [("model", "MODEL", model), ("steps", "INT", steps), ("seed", "INT", None)]
    return node(id, "S", values, inputs, mode, ("MODEL", "MODEL", "MODEL"))


def test_a_subgraph_becomes_the_nodes_inside_with_its_own_values():
    prompt = expand(LOADER, sampling([33, 44], 10), links=[[10, 1, 0, 9, 0, "MODEL"]])
    assert set(prompt) == {"1", "9:5", "9:6"}
    assert prompt["9:5"] == {
        "class_type": "Sampler",
        "inputs": {"seed": 44, "steps": 33, "method": "heun", "cfg": 3.0, "model": ["1", 0]},
    }


def test_two_instances_have_values_of_their_own():
    prompt = expand(sampling([33, 44]), sampling([55, 66], id=8))
    assert [prompt[name]["inputs"]["steps"] for name in ("9:5", "8:5")] == [33, 55]
    assert "model" not in prompt["9:5"]["inputs"]


def test_without_values_of_its_own_the_ones_inside_count():
    for values in (None, [], [None, None]):
        assert expand(sampling(values))["9:5"]["inputs"] == {"seed": 7, "steps": 12, "method": "heun", "cfg": 3.0}


def test_a_link_to_a_promoted_widget_wins():
    prompt = expand(node(1, "Loader", ["b.safetensors"]), sampling([33, 44], None, 11), links=[[11, 1, 2, 9, 1, "INT"]])
    assert prompt["9:5"]["inputs"]["steps"] == ["1", 2]
    assert prompt["9:5"]["inputs"]["seed"] == 44


@pytest.mark.parametrize(("output", "source"), [(0, ["9:5", 0]), (1, ["9:6", 0]), (2, None)])
def test_an_output_leads_to_the_node_inside_that_makes_it(output, source):
    prompt = expand(sampling([33, 44]), sampler(12), links=[[12, 9, output, 3, 0, "MODEL"]])
    assert prompt["3"]["inputs"].get("model") == source


@pytest.mark.parametrize(("mode", "source"), [(2, None), (4, ["1", 0])])
def test_a_subgraph_that_is_off_is_left_out_or_passed_by(mode, source):
    links = [[10, 1, 0, 9, 0, "MODEL"], [12, 9, 1, 3, 0, "MODEL"]]
    prompt = expand(LOADER, sampling([33, 44], 10, mode=mode), sampler(12), links=links)
    assert set(prompt) == {"1", "3"}
    assert prompt["3"]["inputs"].get("model") == source


@pytest.mark.parametrize(("mode", "source"), [(2, None), (4, ["1", 0])])
def test_a_node_inside_that_is_off_is_left_out_or_passed_by(mode, source):
    inside = {**SAMPLING, "nodes": [inner_sampler(1, 2, 3, mode=mode), SAMPLING["nodes"][1]]}
    links = [[10, 1, 0, 9, 0, "MODEL"], [12, 9, 0, 3, 0, "MODEL"]]
    prompt = expand(LOADER, sampling([33, 44], 10), sampler(12), links=links, definitions=[inside])
    assert set(prompt) == {"1", "3", "9:6"}
    assert prompt["3"]["inputs"].get("model") == source


def nested(values, mode=0):
    """A subgraph around the first: its own model goes in, steps is promoted twice."""
    inner = node(
        7, "S", values, [("model", "MODEL", 1), ("steps", "INT", 2), ("seed", "INT", None)], mode, ("MODEL",) * 3
    )
    inner["inputs"][1]["widget"] = {"name": "steps"}
    return subgraph(
        "N",
        inner,
        links=[(1, -10, 0, 7, 0, "MODEL"), (2, -10, 1, 7, 1, "INT"), (3, 7, 0, -20, 0, "MODEL")],
        inputs=[("model", "MODEL", [1]), ("steps", "INT", [2])],
        outputs=[("model", "MODEL", [3])],
    )


def around(values, mode=0):
    return node(20, "N", values, [("model", "MODEL", 10), ("steps", "INT", None)], mode)


NESTED_LINKS = [[10, 1, 0, 20, 0, "MODEL"], [12, 20, 0, 3, 0, "MODEL"]]


def test_subgraphs_inside_subgraphs():
    prompt = expand(LOADER, around([77]), sampler(12), links=NESTED_LINKS, definitions=[nested([33, 44]), SAMPLING])
    assert set(prompt) == {"1", "3", "20:7:5", "20:7:6"}
    assert prompt["20:7:5"]["inputs"] == {"seed": 44, "steps": 77, "method": "heun", "cfg": 3.0, "model": ["1", 0]}
    assert prompt["3"]["inputs"]["model"] == ["20:7:5", 0]


@pytest.mark.parametrize(("mode", "source"), [(2, None), (4, ["1", 0])])
def test_a_subgraph_that_is_off_inside_another_gives_what_it_does_in_the_editor(mode, source):
    """The editor switches off what is inside along with it; the file alone says nothing about that."""
    prompt = expand(
        LOADER, around([77]), sampler(12), links=NESTED_LINKS, definitions=[nested([33, 44], mode=mode), SAMPLING]
    )
    assert prompt["3"]["inputs"].get("model") == source
    assert {"20:7:5", "20:7:6"} <= set(prompt)


def test_a_bypassed_node_hands_on_what_the_end_of_the_line_asks_for():
    """A reroute takes anything, but the sampler behind it takes a model."""
    inputs = [("mask", "MASK", 9), ("model", "MODEL", 10)]
    bypassed = node(2, "Loader", ["a.safetensors"], inputs, mode=4)
    links = [[9, 8, 0, 2, 0, "MASK"], [10, 1, 0, 2, 1, "MODEL"], [12, 2, 0, 4, 0, "*"], [13, 4, 0, 3, 0, "MODEL"]]
    other = node(8, "Loader", ["a.safetensors"], outputs=("MASK",))
    prompt = convert(LOADER, other, bypassed, node(4, "Reroute", None, [("", "*", 12)]), sampler(13), links=links)
    assert prompt["3"]["inputs"]["model"] == ["1", 0]


def test_what_takes_anything_gets_the_input_at_the_same_place():
    inputs = [("mask", "MASK", 9), ("model", "MODEL", 10)]
    bypassed = node(2, "Loader", ["a.safetensors"], inputs, mode=4)
    links = [[9, 8, 0, 2, 0, "MASK"], [10, 1, 0, 2, 1, "MODEL"], [12, 2, 0, 3, 0, "MODEL"]]
    other = node(8, "Loader", ["a.safetensors"], outputs=("MASK",))
    prompt = convert(LOADER, other, bypassed, node(3, "Sampler", SAMPLER, [("model", "*", 12)]), links=links)
    assert prompt["3"]["inputs"]["model"] == ["8", 0]


def test_reroutes_lead_into_subgraphs_and_out_of_them():
    prompt = expand(
        LOADER,
        node(2, "Reroute", None, [("", "*", 10)]),
        sampling([33, 44], 11),
        node(4, "Reroute", None, [("", "*", 12)]),
        sampler(13),
        links=[
            [10, 1, 0, 2, 0, "*"],
            [11, 2, 0, 9, 0, "MODEL"],
            [12, 9, 0, 4, 0, "*"],
            [13, 4, 0, 3, 0, "MODEL"],
        ],
    )
    assert prompt["9:5"]["inputs"]["model"] == ["1", 0]
    assert prompt["3"]["inputs"]["model"] == ["9:5", 0]


def test_a_type_may_be_a_choice_of_several():
    inputs = [("mask", "MASK,MODEL", 9)]
    prompt = convert(
        LOADER, node(2, "Loader", ["a.safetensors"], inputs, mode=4), sampler(12),
        links=[[9, 1, 0, 2, 0, "MODEL"], [12, 2, 0, 3, 0, "MODEL"]],
    )  # fmt: skip
    assert prompt["3"]["inputs"]["model"] == ["1", 0]


def test_older_editors_list_the_promoted_widgets():
    older = sampling([44, 33])
    older["properties"] = {"proxyWidgets": [["-1", "seed"], ["-1", "steps"]]}
    inputs = expand(older)["9:5"]["inputs"]
    assert (inputs["seed"], inputs["steps"]) == (44, 33)


def test_a_still_older_form_is_refused():
    older = sampling([33, 44])
    older["properties"] = {"proxyWidgets": [["5", "steps"]]}
    with pytest.raises(DevError, match=r"Node 9 shows widgets .* in an older form"):
        expand(older)
