"""Which changes of a node's schema saved graphs survive."""

import copy

import pytest

from devtools.schemas import breaks

SOLVER = {
    "euler": [],
    "dopri5": [{"id": "rtol", "type": "FLOAT", "optional": False}, {"id": "atol", "type": "FLOAT", "optional": False}],
}
OLD = {
    "A": {
        "name": "a",
        "inputs": [
            {"id": "model", "type": "MODEL", "optional": False},
            {"id": "solver", "type": "COMFY_DYNAMICCOMBO_V3", "optional": False, "options": SOLVER},
            {"id": "seed", "type": "INT", "optional": False, "control": True, "default": 0},
            {"id": "start", "type": "COMBO", "optional": False, "options": ["t_min", "noise"]},
            {"id": "mask", "type": "MASK", "optional": True},
        ],
        "outputs": [{"name": "x", "type": "MODEL", "list": False}, {"name": "y", "type": "MASK", "list": False}],
    }
}
MODEL, SOLVER_AT, SEED, START, MASK = range(5)
WIDGET = {"id": "new", "type": "INT", "optional": False}
SOCKET = {"id": "new", "type": "LATENT", "optional": True}


def after(change):
    """What `breaks` says to the change that a function makes in a copy of OLD."""
    new = copy.deepcopy(OLD)
    change(new["A"]["inputs"], new["A"]["outputs"])
    return breaks(OLD, new)


def to(place, **values):
    return lambda inputs, outputs: inputs[place].update(values)


def only_solver(inputs):
    """The same node with no widget behind the dynamic combo."""
    return {"A": {"name": "a", "inputs": [inputs[MODEL], inputs[SOLVER_AT]], "outputs": []}}


GOOD = {
    "nothing": lambda inputs, outputs: None,
    "a widget at the end": lambda inputs, outputs: inputs.append(WIDGET),
    "an optional socket at the end": lambda inputs, outputs: inputs.append(SOCKET),
    "an output at the end": lambda inputs, outputs: outputs.append({"name": "z", "type": "INT", "list": False}),
    "another option": to(START, options=["t_min", "data", "noise"]),
    "another option with inputs of its own": to(SOLVER_AT, options={"bosh3": SOLVER["dopri5"], **SOLVER}),
    "another default": to(SEED, default=1),
    "another name of an output": lambda inputs, outputs: outputs[0].update(name="model"),
    "a socket that takes more": to(MASK, type="MASK,IMAGE"),
    "a socket that is no longer required": to(MODEL, optional=True),
}
BAD = {
    "an input in between": (lambda inputs, outputs: inputs.insert(1, WIDGET), "order"),
    "an input gone": (lambda inputs, outputs: inputs.pop(SEED), "order"),
    "another order": (lambda inputs, outputs: inputs.insert(0, inputs.pop()), "order"),
    "another name": (to(SEED, id="noise_seed"), "order"),
    "another type": (to(SEED, type="FLOAT"), "seed was INT and is FLOAT"),
    "a socket that takes less": (to(MASK, type="IMAGE"), "mask was MASK"),
    "a widget that moves behind the required ones": (to(SOLVER_AT, optional=True), "widgets"),
    "required at last": (to(MASK, optional=False), "mask was optional"),
    "a required socket": (lambda inputs, outputs: inputs.append({**SOCKET, "optional": False}), "do not connect it"),
    "no control after generate": (to(SEED, control=None), "control after generate"),
    "an option gone": (to(START, options=["noise"]), "['t_min']"),
    "a nested input gone": (to(SOLVER_AT, options={**SOLVER, "dopri5": SOLVER["dopri5"][:1]}), "solver = dopri5"),
    "a nested input before others": (to(SOLVER_AT, options={**SOLVER, "euler": [WIDGET]}), "moves the widgets"),
    "an output gone": (lambda inputs, outputs: outputs.pop(), "outputs"),
    "outputs exchanged": (lambda inputs, outputs: outputs.reverse(), "outputs"),
    "a list of what was one": (lambda inputs, outputs: outputs[0].update(list=True), "outputs"),
}


@pytest.mark.parametrize("change", GOOD.values(), ids=GOOD)
def test_saved_graphs_survive(change):
    assert after(change) == []


@pytest.mark.parametrize(("change", "words"), BAD.values(), ids=BAD)
def test_saved_graphs_break(change, words):
    (message,) = after(change)
    assert message.startswith("A: ") and words in message and "becomes a new one" in message


def test_nested_inputs_may_grow_where_no_widget_follows():
    old, new = (only_solver(copy.deepcopy(OLD)["A"]["inputs"]) for _ in range(2))
    new["A"]["inputs"][1]["options"]["dopri5"].append(WIDGET)
    assert breaks(old, new) == []
    new["A"]["inputs"].append({**WIDGET, "id": "last"})
    assert len(breaks(old, new)) == 1


def test_a_widget_before_an_optional_one_moves_it():
    """The page puts required widgets first, wherever they are in the schema."""
    old = {"A": {"inputs": [{"id": "steps", "type": "INT", "optional": True}], "outputs": []}}
    new = {"A": {"inputs": [*old["A"]["inputs"], WIDGET], "outputs": []}}
    assert "widgets" in breaks(old, new)[0]


def test_a_node_may_come_but_not_go():
    assert breaks({}, OLD) == []
    (gone,) = breaks(OLD, {})
    assert gone.startswith("A is gone")
