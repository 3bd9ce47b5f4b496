"""Errors and interrupts in the middle of a run leave nothing behind, and the next run works."""

import pytest
import torch


class BoomError(Exception):
    pass


@pytest.fixture
def interrupting(comfy):
    """Call it to press cancel; the flag is down again after the test."""
    import comfy.model_management

    yield lambda: comfy.model_management.interrupt_current_processing(True)
    comfy.model_management.interrupt_current_processing(False)


def sampler_that(host, node, name, fault, calls):
    """The stock euler, or the pack's ODE sampler, with `fault()` at the second report of progress."""
    import comfy.samplers

    inner = comfy.samplers.ksampler("euler") if name == "euler" else node("D2FSampler").execute(name).result[0]

    def function(model, x, sigmas, extra_args, callback, disable):
        def report(step):
            calls.append(step["i"])
            if len(calls) == 2:
                fault()
            callback(step)

        return inner.sampler_function(model, x, sigmas, extra_args=extra_args, callback=report, disable=disable)

    return host.make_sampler(function)


def boom():
    raise BoomError


@pytest.mark.parametrize("solver", ["euler", {"solver": "euler"}, {"solver": "rk4"}])
@pytest.mark.parametrize("fault", ["error", "interrupt"])
def test_nothing_is_left_after_a_fault(
    host, node, eps_model, sample, table_levels, fingerprint, interrupting, solver, fault
):
    import comfy.model_management

    ve = table_levels(eps_model, 4)
    s = ve / (1 + ve)
    converted = host.convert(eps_model)
    before = sample(eps_model, ve), sample(converted, s)
    marks = fingerprint(eps_model), fingerprint(converted)
    calls = []
    sampler = sampler_that(host, node, solver, boom if fault == "error" else interrupting, calls)
    interrupt = comfy.model_management.InterruptProcessingException
    with pytest.raises(BoomError if fault == "error" else interrupt):
        sample(converted, s, sampler)
    assert len(calls) <= 3
    assert (fingerprint(eps_model), fingerprint(converted)) == marks
    assert eps_model.object_patches == {}
    assert torch.equal(sample(converted, s), before[1])
    assert torch.equal(sample(eps_model, ve), before[0])


def test_an_error_inside_of_the_network(host, eps_model, sample, table_levels, fingerprint, watch):
    ve = table_levels(eps_model, 4)
    converted = host.convert(eps_model)
    before = sample(eps_model, ve)
    mark = fingerprint(eps_model)
    with pytest.raises(BoomError):
        sample(watch(converted, lambda run, x, timesteps: boom()), ve / (1 + ve))
    assert fingerprint(eps_model) == mark
    assert torch.equal(sample(eps_model, ve), before)


@pytest.mark.parametrize("method", ["euler", "rk4", "dopri5"])
def test_an_interrupt_acts_within_one_model_call(
    host, node, eps_model, sample, table_levels, watch, interrupting, method
):
    """Whatever the network is: this one computes without the host's layers, which look for a cancel themselves."""
    import comfy.model_management

    calls = []

    def network(run, x, timesteps):
        calls.append(timesteps)
        if len(calls) == 2:
            interrupting()
        return torch.zeros_like(x)

    ve = table_levels(eps_model, 6)
    sampler = node("D2FSampler").execute({"solver": method}).result[0]
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(watch(host.convert(eps_model), network), ve / (1 + ve), sampler)
    assert len(calls) == 2
    sample(host.convert(eps_model), ve / (1 + ve), sampler)


@pytest.mark.parametrize("inside", [True, False])
def test_it_runs_in_inference_mode_and_out_of_it(host, node, eps_model, conditioning, inside):
    """Tensors made in one mode may be used in the other."""
    execute = node("D2FKSampler").execute
    latents = []
    for mode in (True, inside):
        with torch.inference_mode(mode), torch.no_grad():
            latent = {"samples": torch.zeros(1, 4, 8, 8)}
            out, nfe = execute(
                eps_model, 3, 3, 2.0, {"solver": "heun"}, {"grid": "uniform"}, *conditioning, latent, 1.0
            ).result
            assert nfe == 6
            latents.append(out["samples"])
    with torch.inference_mode(False), torch.no_grad():
        flow = host.convert(eps_model)
        assert not host.sampling_of(flow).sigmas.is_inference()
        again = execute(
            flow, 3, 3, 2.0, {"solver": "heun"}, {"grid": "uniform"}, *conditioning, {"samples": latents[0] * 0}, 1.0
        )
    assert torch.equal(latents[0], latents[1])
    assert torch.equal(latents[0], again.result[0]["samples"])


def test_the_converter_itself_needs_no_gradient(host, build):
    """A model that was made under inference mode can be converted outside of it, and the other way round."""
    model = build("EPS")
    with torch.inference_mode(False):
        outside = host.sampling_of(host.convert(model)).sigmas
    assert torch.equal(outside, host.sampling_of(host.convert(model)).sigmas)
    assert not outside.requires_grad
