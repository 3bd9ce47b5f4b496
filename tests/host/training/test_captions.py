"""What a caption may hold: one text. Whatever else a node of the host puts on a CONDITIONING is refused by name."""

import pytest
import torch


class Gligen:
    """Stands for a GLIGEN model."""


def nodes(name, conditioning):
    """A CONDITIONING out of one of the host's own nodes, or as it would leave one."""
    import comfy.hooks
    import node_helpers

    import nodes as host_nodes

    cls = host_nodes.NODE_CLASS_MAPPINGS
    put = node_helpers.conditioning_set_values
    mask = torch.ones(1, 8, 8)
    made = {
        "ControlNet": lambda: put(conditioning, {"control": object(), "control_apply_to_uncond": True}),
        "timestep range": lambda: cls["ConditioningSetTimestepRange"]().set_range(conditioning, 0.2, 1.0)[0],
        "an area": lambda: cls["ConditioningSetArea"]().append(conditioning, 32, 32, 0, 0, 1.0)[0],
        "a strength": lambda: cls["ConditioningSetAreaStrength"]().append(conditioning, 0.5)[0],
        "a mask": lambda: cls["ConditioningSetMask"]().append(conditioning, mask, "default", 1.0)[0],
        "GLIGEN": lambda: put(conditioning, {"gligen": ("position", Gligen(), [])}),
        "hooks": lambda: put(conditioning, {"hooks": comfy.hooks.HookGroup()}),
        "default": lambda: put(conditioning, {"default": True}),
        "unCLIP": lambda: cls["unCLIPConditioning"]().apply_adm(conditioning, object(), 1.0, 0.0)[0],
        "reference latent": lambda: put(conditioning, {"reference_latents": [torch.ones(1, 4, 8, 8)]}),
        "prompt for ControlNets": lambda: put(conditioning, {"cross_attn_controlnet": torch.ones(1, 7, 16)}),
    }
    return made[name]()


REFUSED = [
    "ControlNet", "timestep range", "an area", "a strength", "a mask", "GLIGEN", "hooks", "default", "unCLIP",
    "reference latent", "prompt for ControlNets",
]  # fmt: skip


@pytest.mark.parametrize("where", ["positive", "negative", "validation_positive"])
@pytest.mark.parametrize("name", REFUSED)
def test_more_than_a_text_is_refused(build, train, latents, conditioning, unharmed, output, name, where):
    model, changed = build(), nodes(name, conditioning[0])
    given = {"validation_latents": latents} if where == "validation_positive" else {}
    with unharmed(model), pytest.raises(ValueError, match=rf"^'{where}' holds .*{name}.*acts on sampling only"):
        train(model, **given, **{where: changed})
    assert not list(output.rglob("*.safetensors"))


def test_several_entries_are_refused(build, train, conditioning, unharmed):
    model, both = build(), [*conditioning[0], *conditioning[1]]
    for where in ("positive", "negative"):
        words = rf"^'{where}' holds a conditioning of 2 entries.*\(Conditioning \(Combine\)\)"
        with unharmed(model), pytest.raises(ValueError, match=words):
            train(model, **{where: both})


def test_values_without_an_effect_are_no_reason(build, train, conditioning, same):
    import nodes as host_nodes

    cls = host_nodes.NODE_CLASS_MAPPINGS
    neutral = cls["ConditioningSetTimestepRange"]().set_range(conditioning[0], 0.0, 1.0)[0]
    neutral = cls["ConditioningSetAreaStrength"]().append(neutral, 1.0)[0]
    assert same(train(build(), positive=neutral)[0], train(build(), run_name="plain")[0])


def test_an_image_for_a_model_that_takes_none_is_refused(build, host, train, conditioning, unharmed):
    model, positive = build(), host.with_condition(conditioning[0], torch.ones(1, 4, 8, 8))
    with unharmed(model), pytest.raises(ValueError, match=r"'positive' holds the latent of an image .*takes none; put"):
        train(model, positive=positive)


# Captions of different lengths


@pytest.fixture
def texts():
    generator = torch.Generator().manual_seed(6)
    return lambda *lengths: [[[torch.randn(1, length, 16, generator=generator), {}]] for length in lengths]


def test_lengths_that_do_not_fit_are_asked_in_calls_of_their_own(part):
    """308, 385 and 539 tokens have 10,780 as their least common multiple, 35 times the shortest."""
    join = part("network.conditionings").join
    kwargs = [{"c_crossattn": torch.full((1, length, 2), float(length))} for length in (308, 385, 539, 308, 77, 154)]
    calls = join(kwargs)
    assert [(rows, tuple(each["c_crossattn"].shape)) for rows, each in calls] == [
        ([0, 3, 4, 5], (4, 308, 2)),
        ([1], (1, 385, 2)),
        ([2], (1, 539, 2)),
    ]
    assert isinstance(join(kwargs[:1] + kwargs[3:]), dict)


def test_no_text_is_made_longer_than_it_need_be(build, train, latents, texts):
    """Of a batch of texts of 7, 11 and 13 tokens nothing longer reaches the network."""
    from diff2flow_kit.nodes.host.training import TrainingNetwork

    captions, seen = texts(7, 11, 13), []
    original = TrainingNetwork._call
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            TrainingNetwork,
            "_call",
            lambda self, x, t, condition, role: (
                seen.append(tuple(condition["c_crossattn"].shape)) or original(self, x, t, condition, role)
            ),
        )
        loss = train(build(), latents[:3], captions, batch_size=3, steps=1, dropout=0.0)[1]["loss"][0]
    assert sorted(seen) == [(1, 7, 16), (1, 11, 16), (1, 13, 16)]
    assert torch.isfinite(torch.tensor(loss))


def test_an_answer_for_a_batch_is_that_of_each_item(build, host, part, texts):
    join = part("network.conditionings").join
    x = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    timesteps = torch.tensor([900.0, 500.0, 100.0, 300.0])
    with host.training(build()) as network, torch.no_grad():
        each = [network.condition(text, (4, 8, 8)) for text in texts(7, 11, 7, 13)]
        together = network(x, timesteps, join(each))
        alone = torch.cat([network(x[i : i + 1], timesteps[i : i + 1], each[i]) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5 * alone.abs().max().item())
