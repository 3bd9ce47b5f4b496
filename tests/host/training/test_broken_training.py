"""Training that cannot go on: a loss that is not finite, and layers that adapters do not reach."""

import pytest
import torch


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_loss_that_is_not_finite_keeps_the_last_good_weights(
    build, train, around_network, unharmed, saved, same, where
):
    from diff2flow_kit.d2f_data.files.lora_file import load_lora

    calls = []

    def network(call, network, x):
        output = call()
        calls.append(x)
        if len(calls) < 3:
            return output
        if where == "loss":
            return output * float("nan")
        output.register_hook(lambda gradient: gradient * float("inf"))
        return output

    model = build()
    around_network(network)
    words = rf"the {where} became NaN or infinite at step 3; the weights of step 2 are kept. Lower the learning rate"
    with unharmed(model), pytest.raises(ArithmeticError, match=words):
        train(model, steps=4)
    around_network(lambda call, network, x: call())
    (path,) = saved()
    good, kept = train(model, steps=2, run_name="good")[0], load_lora(path)
    assert kept.facts.steps == 2
    assert same({key: t if key.endswith("alpha") else t.half() for key, t in good.items()}, dict(kept))


def test_layers_that_ignore_adapters_are_refused(build, train, unharmed, output):
    """Layers that take their weights and compute on their own, as those of quantised formats do."""
    model = build()
    attention = model.model.diffusion_model.middle_block[1].transformer_blocks[0].attn1

    class Own(type(attention)):
        def forward(self, x, *args, **kwargs):
            values = torch.nn.functional.linear(x, self.to_v.weight)
            return torch.nn.functional.linear(values, self.to_out[0].weight, self.to_out[0].bias)

    attention.__class__ = Own
    words = r"4 adapters got no gradient, the first at middle_block.1.*attn1.to_q: .* GGUF .* choose other targets"
    with unharmed(model), pytest.raises(ValueError, match=words):
        train(model, targets="attention")
    assert not list(output.rglob("*.safetensors"))
    train(model, target_pattern="*.attn2.*")
