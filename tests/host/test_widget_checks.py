"""Numbers and choices that a wire brings: what no widget allows is refused by name, before anything else happens."""

import inspect
import math

import pytest
import torch


def numeric(inputs, path=()):
    """(path of ids, widget) of all numeric widgets; the path of a nested one goes through combo and option."""
    from comfy_api.latest import io

    for one in inputs:
        if isinstance(one, io.Int.Input | io.Float.Input):
            yield (*path, one.id), one
        if isinstance(one, io.DynamicCombo.Input):
            for option in one.options:
                yield from numeric(option.inputs, (*path, one.id, option.key))


def combos(inputs):
    from comfy_api.latest import io

    return [one for one in inputs if isinstance(one, io.Combo.Input | io.DynamicCombo.Input)]


@pytest.fixture(scope="module")
def classes(pack):
    import importlib

    return importlib.import_module(f"{pack.__name__}.nodes").find_nodes()


@pytest.fixture(scope="module")
def with_numbers(classes):
    found = [cls for cls in classes if list(numeric(cls.define_schema().inputs))]
    assert len(found) > 11
    return found


def call(cls, path, value):
    """Execute a node with a value for one widget, and what every node refuses or never looks at for all the rest."""
    schema = cls.define_schema()
    given = {one.id: None for one in schema.inputs}
    if len(path) == 1:
        given[path[0]] = value
    else:
        combo, key, name = path
        given[combo] = {combo: key, name: value}
    if schema.is_input_list:
        given = {name: [one] for name, one in given.items()}
    return cls.execute(**given)


def outside(widget):
    from comfy_api.latest import io

    whole = isinstance(widget, io.Int.Input)
    step = 1 if whole else max(abs(widget.max), abs(widget.min), 1.0) * 1e-9
    return [widget.min - step, widget.max + step, math.nan, math.inf, -math.inf, *([0.5] if whole else [])]


def test_every_numeric_widget_has_a_range(with_numbers):
    for cls in with_numbers:
        for path, widget in numeric(cls.define_schema().inputs):
            assert widget.min is not None and widget.max is not None, (cls.__name__, path)


def test_numbers_outside_of_a_range_are_refused_by_name(with_numbers):
    count = 0
    for cls in with_numbers:
        for path, widget in numeric(cls.define_schema().inputs):
            name = widget.display_name or widget.id
            for value in outside(widget):
                with pytest.raises(ValueError) as raised:
                    call(cls, path, value)
                words = str(raised.value)
                assert words.startswith(f"{name} is {value}; "), (cls.__name__, path, value, words)
                assert words.endswith((f"allowed are {widget.min} to {widget.max}", "it must be a whole number"))
                count += 1
    assert count > 300


def test_the_ends_of_a_range_are_allowed(part, with_numbers):
    check = part("checks").check_value
    for cls in with_numbers:
        for _, widget in numeric(cls.define_schema().inputs):
            for value in (widget.min, widget.max, widget.default, None):
                check(widget, value)


@pytest.mark.parametrize("value", ["20", [20], torch.tensor(20), {"a": 1}, 20.0])
def test_what_is_no_number_is_refused_by_name(node, value):
    with pytest.raises(ValueError, match=r"steps is .*; it must be a whole number"):
        call(node("D2FScheduler"), ("steps",), value)


def test_choices_that_do_not_exist_are_refused_by_name(classes):
    """Files are told by the nodes themselves: their lists are older than what is on the disk."""
    files = {("D2FLoadLora", "lora"), ("D2FLoadPairs", "pairs")}
    count = 0
    for cls in classes:
        for combo in combos(cls.define_schema().inputs):
            if (cls.__name__, combo.id) in files:
                continue
            nested = hasattr(combo.options[0], "inputs")
            with pytest.raises(ValueError, match=rf"^{combo.id} is 'nonsense'; allowed are '"):
                call(cls, (combo.id,), {combo.id: "nonsense"} if nested else "nonsense")
            count += 1
    assert count > 20


def test_every_node_with_widgets_is_checked(classes):
    """Also those with no number yet: `execute` is the decorated one."""
    for cls in classes:
        if list(numeric(cls.define_schema().inputs)) or combos(cls.define_schema().inputs):
            assert inspect.unwrap(cls.execute.__func__) is not cls.execute.__func__, cls.__name__


@pytest.mark.parametrize("denoise", [1e-9, 1e-5, 5e-324])
@pytest.mark.parametrize("name", ["uniform", "stock scheduler"])
def test_a_denoise_that_plans_millions_of_levels_is_refused(host, build, node, part, denoise, name):
    grid = {"grid": name, **({"scheduler": "simple"} if name != "uniform" else {})}
    model = host.convert(build())
    with pytest.raises(ValueError, match=r"denoise is .* with 20 steps, .*must be at least 2e-05, or 0"):
        node("D2FScheduler").execute(model, grid, 20, denoise)


@pytest.mark.parametrize("denoise", [-0.1, 1.1, math.nan, math.inf])
def test_the_sigmas_themselves_refuse_what_is_no_part(host, build, part, denoise):
    with pytest.raises(ValueError, match=r"denoise is .*; allowed are 0 to 1"):
        part("sampling.sigmas").flow_sigmas(host.convert(build()), {"grid": "uniform"}, 20, denoise)


def test_the_least_denoise_of_the_widgets_is_allowed(host, build, node):
    levels = node("D2FScheduler").execute(host.convert(build()), {"grid": "uniform"}, 10_000, 0.01).result[0]
    assert len(levels) == 10_001 and levels[0] == pytest.approx(0.01 * 14.6146 / 15.6146, rel=1e-4)
