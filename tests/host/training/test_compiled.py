"""The trainer with `compile`: the same LoRA to rounding, few graphs, resume, and machines where nothing compiles."""

from functools import partial

import pytest
import torch

RUN = {"steps": 4, "targets": "all", "ema": 0.9, "compile": True}


class Graphs:
    """A backend that runs what it gets as it is, and counts it."""

    def __init__(self):
        self.number = 0

    def __call__(self, graph, inputs):
        self.number += 1
        return graph.forward


@pytest.fixture
def graphs(part, monkeypatch):
    """Graphs are made and counted, and run by no compiler."""
    module, found = part("host.model_call.compiled"), Graphs()
    monkeypatch.setattr(module, "compile_blocks", partial(module.compile_blocks, backend=found))
    monkeypatch.setattr(module, "compiler_fault", lambda device: None)
    torch._dynamo.reset()
    yield found
    torch._dynamo.reset()


@pytest.mark.slow
def test_a_compiled_run_resumes_bit_for_bit_with_few_graphs(build, train, same, graphs, part, monkeypatch, output):
    """Its LoRA is that of an uncompiled run to rounding; only the first step, and the first validation, make graphs."""
    numbers, progress = [], part("host.progress").NodeProgress
    show = progress.show
    monkeypatch.setattr(
        progress, "show", lambda self, *given, **more: numbers.append(graphs.number) or show(self, *given, **more)
    )
    settings = {**RUN, "checkpointing": True, "dropout": 0.3, "validate_every": 1, "batch_size": 5}
    one = {"validation_latents": torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(1))}
    whole = train(build(), **settings, **one, run_name="whole")[0]
    assert numbers[0] == 0 < numbers[1] == numbers[2] == numbers[-1]
    plain = train(build(), **{**settings, "compile": False}, **one, run_name="plain")[0]
    for key, tensor in plain.items():
        torch.testing.assert_close(whole[key], tensor, rtol=1e-4, atol=1e-6)

    train(build(), **{**settings, "steps": 2}, **one, run_name="parts")
    assert same(train(build(), **settings, **one, run_name="parts")[0], whole)
    train(build(), **{**settings, "compile": False}, **one, run_name="parts")
    assert (output / "diff2flow" / "runs" / "parts_00002").is_dir()


def test_where_nothing_compiles_the_node_says_why_and_trains(build, train, same, part, monkeypatch, shown):
    monkeypatch.setattr(part("host.model_call.compiled"), "compiler_fault", lambda device: "RuntimeError: no triton")
    lora = train(build(), **RUN, run_name="tried")[0]
    assert shown and all("not compiled, because torch.compile does not work here: RuntimeError: no triton" in text
                         for text in shown)  # fmt: skip
    assert same(lora, train(build(), **{**RUN, "compile": False}, run_name="tried")[0])  # that run, loaded


@pytest.mark.slow
def test_what_fails_in_the_first_step_is_on_the_node(build, train, same, part, graphs, monkeypatch, shown):
    def broken(graph, inputs):
        raise OSError("out of registers")

    module = part("host.model_call.compiled")
    monkeypatch.setattr(module, "compile_blocks", partial(module.compile_blocks, backend=broken))
    lora = train(build(), **{**RUN, "steps": 1}, run_name="broken")[0]
    assert shown[-1].count("cannot be compiled") == 1 and "out of registers" in shown[-1]
    assert same(lora, train(build(), **{**RUN, "steps": 1, "compile": False}, run_name="plain")[0])


@pytest.mark.slow
def test_patches_still_learn_where_they_are(build, train, graphs, same):
    """A patch that asks for its place in the network is called with it."""
    places = []

    def patch(q, context, value, options):
        places.append(options["block"])
        return q * 1.1, context, value

    model = build()
    model.set_model_attn1_patch(patch)
    fast = train(model, **{**RUN, "steps": 1}, run_name="fast")[0]
    assert len(set(places)) > 1
    plain = train(model, **{**RUN, "steps": 1, "compile": False}, run_name="plain")[0]
    for key, tensor in plain.items():
        torch.testing.assert_close(fast[key], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_dora_looks_at_the_layer_inside_a_graph(build, train, graphs, shown):
    settings = {**RUN, "steps": 1, "adapter": "dora", "targets": "attention"}
    plain = train(build(), **{**settings, "compile": False}, run_name="plain")[0]
    shown.clear()
    found = train(build(), **settings, run_name="compiled")[0]
    assert graphs.number > 0 and "cannot be compiled" not in "".join(shown)
    for key, tensor in plain.items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-3, atol=1e-5)


def test_oft_is_refused(build, train, graphs, unharmed):
    model = build()
    with unharmed(model), pytest.raises(ValueError, match=r"adapter oft cannot be compiled.*switch 'compile' off"):
        train(model, **RUN, adapter="oft")
