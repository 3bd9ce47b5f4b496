"""A saved graph becomes the prompt that the editor would send."""

import pytest

from devtools.console import DevError
from devtools.workflow import DYNAMIC_COMBO, to_prompt

OPTIONS = [
    {"key": "fixed", "inputs": {"required": {"steps": ["INT", {}], "noise_seed": ["INT", {}]}}},
    {"key": "adaptive", "inputs": {"required": {"rtol": ["FLOAT", {}]}, "optional": {"m": ["MODEL"]}}},
]
OBJECT_INFO = {
    "Loader": {"input": {"required": {"name": [["a.safetensors", "b.safetensors"]]}}},
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
    prompt = convert(
        node(1, "Loader", ["a.safetensors"], mode=2), sampler(10), links=[[10, 1, 0, 3, 0, "MODEL"]]
    )
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


def test_an_unknown_node_is_named():
    with pytest.raises(DevError, match="node 1 is a Stranger, which this ComfyUI does not have"):
        convert(node(1, "Stranger"))
