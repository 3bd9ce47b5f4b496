"""Model Report without a probe, or beside it: what ComfyUI believes, what is on the model, and faulty inputs."""

import pytest
import torch


def test_without_a_prompt_or_latents_it_says_what_comfyui_believes(demo, report, pictures, stock_sampling):
    _, latents, _ = pictures(604)
    model = demo()[0]
    for inputs in ({}, {"latent": {"samples": latents}}):
        text, found, agrees, is_flow, _ = report(model, **inputs)
        assert (found, agrees, is_flow) == ("cannot tell", False, False)
        assert "1000 timesteps, sigma 0.02917 to 14.615" in text and "t_min 0.0640, t_max 0.9717" in text
        assert "zero terminal SNR: no" in text and "as the loader chose it" in text and "Connect 'positive'" in text
    text = report(stock_sampling(model, "v_prediction", zsnr=True))[0]
    assert "zero terminal SNR: yes" in text and "set by a node before this one" in text and "v-prediction" in text
    assert "flow, s from 0 to 1, timestep 1000 s" in report(demo("flow")[0])[0]


def test_what_is_on_the_model_is_listed_and_acts(demo, report, pictures, stock):
    _, latents, captions = pictures(605)
    model = demo()[0].clone()
    key = "diffusion_model.input_blocks.0.0.weight"
    model.add_patches({key: ("diff", (torch.ones_like(model.model.get_parameter(key)),))}, 5.0)
    patched = stock("model_advanced", "RescaleCFG")().patch(model, 0.7)[0]
    text, found, *_ = report(patched, positive=captions, latent={"samples": latents})
    assert "patched weights (LoRAs): 1" in text and "RescaleCFG" in text
    assert found == "cannot tell"


def line_of(text, name):
    """What the report says behind `name: `, None without such a line."""
    found = [line.strip().removeprefix(f"{name}: ") for line in text.split("\n") if line.startswith(f"  {name}: ")]
    return found[0] if found else None


def test_the_shift_is_that_of_the_sampling_in_force(demo, node, report, stock):
    """Of the last node that sets one, native or converted; a diffusion model has none."""
    eps, advanced = demo()[0], "model_advanced"
    shifted, convert = stock(advanced, "ModelSamplingSD3")().patch, node("D2FConvert").execute
    behind = shifted(eps, 4.5)[0]
    cases = {
        "4.5": behind,
        "1.73": stock(advanced, "ModelSamplingAuraFlow")().patch_aura(behind, 1.73)[0],
        "2.25": convert(eps, "noise", 2.25, "auto").result[0],
        "1": demo("flow")[0],
        None: eps,
    }
    for shift, model in cases.items():
        assert line_of(report(model)[0], "shift") == shift
    text = report(cases["2.25"])[0]
    assert line_of(text, "model_sampling").endswith("set by 'Convert to Flow Matching'")
    assert line_of(report(behind)[0], "noise levels") == "flow, s from 0 to 1, timestep 1000 s"


def test_injections_are_named_and_told_from_patches(demo, report, stock):
    from comfy.patcher_extension import PatcherInjection

    line = "injections, which cannot be trained through"
    assert line_of(report(demo()[0])[0], "patches") == "none" and line not in report(demo()[0])[0]
    model = stock("model_advanced", "RescaleCFG")().patch(demo()[0], 0.7)[0]
    for key in ("bypass_lora", "their_key"):
        model.set_injections(key, [PatcherInjection(lambda patcher: None, lambda patcher: None)])
    text = report(model)[0]
    assert line_of(text, line) == "'bypass_lora', 'their_key'"
    assert line_of(text, "patches and wrappers") == "RescaleCFG" and line_of(text, "patches") is None


def test_a_schedule_that_the_pack_cannot_read_is_reported_not_raised(demo, report, pictures, stock_sampling):
    _, latents, captions = pictures(606)
    text, found, agrees, *_ = report(stock_sampling(demo()[0], "lcm"), positive=captions, latent={"samples": latents})
    assert (found, agrees) == ("eps", False)
    assert "unknown to this pack" in text and "ModelSamplingDiscrete" in text


def test_edm_is_told_from_v(demo, as_v, report, pictures, stock, watch):
    _, latents, captions = pictures(607)
    model = stock("model_advanced", "ModelSamplingContinuousEDM")().patch(demo()[0], "edm", 120.0, 0.002)[0]

    def network(run, x, timesteps):
        """The eps network over EDM's schedule and sigma_data, with EDM's output."""
        ve = (4 * timesteps.double()).exp().view(-1, 1, 1, 1)
        data, table = 0.5, demo()[0].get_model_object("model_sampling")
        x_ve = x.double() * (ve**2 + data**2).sqrt()
        eps = inner(x_ve / (ve**2 + 1).sqrt(), table.timestep(ve.flatten().float()))
        return ((x_ve - ve * eps - x_ve * data**2 / (ve**2 + data**2)) * (ve**2 + data**2).sqrt() / (ve * data)).float()

    plain, context = demo()[0].model.diffusion_model, captions[0][0]

    def inner(x, timestep):
        return plain(x.float(), timestep.float(), context=context).double()

    text, found, agrees, *_ = report(watch(model, network), positive=captions, latent={"samples": latents})
    assert (found, agrees) == ("edm", True), text


@pytest.mark.parametrize(
    "inputs, word",
    [
        ({"latent": {"samples": torch.zeros(1, 4, 12, 12)}}, "empty"),
        ({"latent": {"samples": torch.full((1, 4, 12, 12), float("nan"))}}, "NaN"),
        ({"latent": {"samples": torch.randn(1, 16, 12, 12)}}, "4 channels"),
        ({"image": torch.rand(1, 96, 96, 3)}, "'vae'"),
        ({"image": torch.rand(1, 96, 96, 3), "latent": {"samples": torch.randn(1, 4, 12, 12)}}, "both"),
        ({"count": 9}, "count"),
    ],
)
def test_errors_name_the_input(demo, report, inputs, word):
    with pytest.raises(ValueError, match=word):
        report(demo()[0], **inputs)


def test_nothing_is_left_behind(demo, report, pictures, fingerprint):
    _, latents, captions = pictures(608)
    for name in ("diffusion", "flow"):
        model, state = demo(name)[0], torch.get_rng_state()
        before, sampling = fingerprint(model), model.get_model_object("model_sampling")
        first = report(model, positive=captions, latent={"samples": latents})
        again = report(model, positive=captions, latent={"samples": latents})
        assert first[0] == again[0] and torch.equal(first[4], again[4])
        assert fingerprint(model) == before and model.get_model_object("model_sampling") is sampling
        assert torch.equal(torch.get_rng_state(), state)


def test_it_runs_on_the_dynamic_patcher(dynamic, report, conditioning, pictures):
    _, latents, _ = pictures(609)
    assert report(dynamic("EPS"), positive=conditioning[0], latent={"samples": latents})[1] == "cannot tell"
