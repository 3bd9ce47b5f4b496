"""The schedulers under the contract that diffusers' own scheduler tests hold every scheduler to."""

import json

import numpy
import pytest
import torch

pytest.importorskip("diffusers")

import diffusers

from d2f_core import FlowAlignment, NoiseSchedule, flow_grid, solve
from d2f_diffusers.schedulers import Diff2FlowEulerScheduler, Diff2FlowHeunScheduler

BOTH = [Diff2FlowEulerScheduler, Diff2FlowHeunScheduler]
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}


def network(x_dm, timestep):
    """Any smooth function of input and timestep."""
    return torch.tanh(x_dm.roll(1, -1) * 1.3 + x_dm * 0.4) + 0.3 * torch.sin(torch.as_tensor(timestep).float() / 150)


def noise(seed=0, count=2):
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def loop(scheduler, x, steps=None, **given):
    """What a pipeline does with a scheduler."""
    scheduler.set_timesteps(steps, **given)
    x = x * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        output = network(scheduler.scale_model_input(x, timestep), timestep)
        x = scheduler.step(output, timestep, x).prev_sample
    return x


def plain(config):
    return {name: value for name, value in config.items() if not name.startswith("_")}


@pytest.fixture(params=BOTH, ids=lambda kind: kind.method)
def kind(request):
    return request.param


def test_what_pipelines_call_is_there(kind):
    scheduler = kind(**SD)
    for name in ("init_noise_sigma", "scale_model_input", "step", "add_noise", "set_timesteps", "set_begin_index"):
        assert hasattr(scheduler, name)
    assert len(scheduler) == len(scheduler.timesteps) == 1000 or kind.order == 2
    assert scheduler.order == kind.order
    assert all(one is not None for one in scheduler.compatibles)
    # Pipelines look for these in the configuration; what is absent is not asked for.
    assert scheduler.config.steps_offset == 0 and "clip_sample" not in scheduler.config
    assert "skip_prk_steps" not in scheduler.config


def test_a_saved_configuration_makes_the_same_scheduler(kind, tmp_path):
    scheduler = kind(**SD, prediction_type="v_prediction", shift=2.0, start="noise")
    scheduler.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "scheduler_config.json").read_text(encoding="utf-8"))
    assert saved["_class_name"] == kind.__name__ and saved["shift"] == 2.0
    again = kind.from_pretrained(tmp_path)
    assert plain(again.config) == plain(scheduler.config)
    assert torch.equal(loop(again, noise(), 6), loop(scheduler, noise(), 6))


def test_the_default_configuration_is_diffusers_own(kind):
    ours, theirs = kind().config, diffusers.DDIMScheduler().config
    shared = {name for name in ours if name in theirs and not name.startswith("_")}
    assert {"beta_start", "beta_end", "beta_schedule", "prediction_type", "timestep_spacing"} <= shared
    assert {name: ours[name] for name in shared} == {name: theirs[name] for name in shared}


def test_every_compatible_scheduler_converts_and_back(kind):
    names = {one.__name__ for one in kind(**SD).compatibles}
    assert {"DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "PNDMScheduler"} <= names
    for name in sorted(names - {kind.__name__}):
        theirs = getattr(diffusers, name)
        if name == "DPMSolverSDEScheduler":
            continue  # needs torchsde
        made = kind.from_config(theirs(**SD).config)
        assert torch.equal(made.alignment.schedule.log_sigma, kind(**SD).alignment.schedule.log_sigma), name
        back = theirs.from_config(made.config)
        assert back.config.beta_schedule == "scaled_linear", name


def test_defaults_of_the_other_class_are_kept(kind):
    """Heun's default betas are not DDIM's; diffusers' own from_config would exchange them silently."""
    theirs = diffusers.HeunDiscreteScheduler()
    made = kind.from_config(theirs.config)
    assert made.config.beta_start == theirs.config.beta_start != kind().config.beta_start
    assert kind.from_config(diffusers.EulerDiscreteScheduler().config).config.timestep_spacing == "linspace"


def test_keywords_overrule_the_configuration(kind):
    made = kind.from_config(diffusers.PNDMScheduler(**SD).config, start="noise", shift=3.0, prediction_type="sample")
    assert (made.config.start, made.config.shift, made.config.prediction_type) == ("noise", 3.0, "sample")


@pytest.mark.parametrize("betas", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_betas_are_those_of_diffusers(kind, betas):
    theirs = diffusers.DDIMScheduler(beta_schedule=betas)
    wanted = NoiseSchedule.from_alphas_cumprod(theirs.alphas_cumprod)
    assert torch.equal(kind.from_config(theirs.config).alignment.schedule.log_sigma, wanted.log_sigma)


def test_trained_betas_and_zero_terminal_snr(kind):
    betas = numpy.linspace(0.001, 0.02, 10)
    assert len(kind(trained_betas=betas, num_train_timesteps=10).alignment.schedule) == 10
    scheduler = kind(**SD, rescale_betas_zero_snr=True, prediction_type="v_prediction")
    assert scheduler.alignment.t_min < 1e-3
    assert torch.isfinite(loop(scheduler, noise(), 5)).all()


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_there_is_one_timestep_per_call(kind, steps):
    scheduler = kind(**SD)
    scheduler.set_timesteps(steps)
    assert scheduler.num_inference_steps == steps
    assert len(scheduler.timesteps) == steps * scheduler.order
    assert len(scheduler.sigmas) == steps * scheduler.order + 1 and scheduler.sigmas[-1] == 0
    assert scheduler.timesteps.dtype == torch.float32 and scheduler.timesteps[0] == 999
    assert bool((scheduler.timesteps >= 0).all())


def test_step_keeps_the_shape_and_a_tuple_is_the_output(kind):
    first, second = kind(**SD), kind(**SD)
    for scheduler in (first, second):
        scheduler.set_timesteps(5)
    x, output = noise(), noise(1)
    timestep = first.timesteps[0]
    named, plain = first.step(output, timestep, x), second.step(output, timestep, x, return_dict=False)
    assert named.prev_sample.shape == named.pred_original_sample.shape == x.shape
    assert torch.equal(named.prev_sample, plain[0]) and torch.equal(named.pred_original_sample, plain[1])
    assert named[0] is named.prev_sample


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_dtype_of_the_network_is_kept(kind, dtype):
    scheduler = kind(**SD)
    x = loop(scheduler, noise().to(dtype), 4)
    assert x.dtype == dtype
    exact = loop(kind(**SD), noise(), 4)
    assert (x.float() - exact).abs().max() < 8 * torch.finfo(dtype).eps * exact.abs().max()


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("start", ["t_min", "noise"])
def test_the_loop_is_the_cores_solver(kind, prediction, start):
    scheduler = kind(**SD, prediction_type=prediction, start=start, shift=1.7)
    alignment = FlowAlignment(NoiseSchedule.from_betas(torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2), "eps")
    alignment = FlowAlignment(alignment.schedule, PREDICTIONS[prediction])
    ts = flow_grid("shifted", 6, t_start=alignment.t_min if start == "t_min" else 0.0, shift=1.7)

    def velocity(t, x):
        return alignment.velocity(network(alignment.to_diffusion(x, t), alignment.timestep(t).float()), x, t)

    x = noise() * torch.hypot(ts[0], 1 - ts[0]).float()
    wanted = solve(velocity, x, ts, kind.method, open_end=True)
    assert wanted.std() > 0.1
    torch.testing.assert_close(loop(scheduler, noise(), 6), wanted, rtol=1e-5, atol=2e-5)


def test_the_order_of_convergence(kind):
    exact = loop(Diff2FlowHeunScheduler(**SD), noise(), 1000)
    errors = [float((loop(kind(**SD), noise(), steps) - exact).abs().mean()) for steps in (40, 80, 160)]
    least = {1: 1.85, 2: 3.4}[kind.order]
    assert errors[0] / errors[1] > least and errors[1] / errors[2] > least


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [4, 20])
def test_euler_is_ddim_at_equal_levels(prediction, spacing, steps):
    options = {"prediction_type": prediction, "timestep_spacing": spacing, "steps_offset": 1}
    ddim = diffusers.DDIMScheduler(**SD, **options, clip_sample=False, set_alpha_to_one=True)
    ddim.set_timesteps(steps)
    wanted = noise()
    for timestep, after in zip(ddim.timesteps.tolist(), [*ddim.timesteps.tolist()[1:], -1]):
        # DDIM itself goes down by T // N, which is its next timestep for some spacings only.
        wanted = ddim_step(ddim, timestep, after, wanted)
    ours = Diff2FlowEulerScheduler.from_config(ddim.config, grid="timestep_spacing")
    made = loop(ours, noise(), steps)
    assert torch.equal(ours.timesteps.round().long(), ddim.timesteps.long())
    assert (made - wanted).abs().max() < 1e-5 * max(1.0, float(wanted.abs().max()))


def ddim_step(ddim, timestep, after, x):
    """One step of diffusers' DDIM from a timestep to another one, -1 for the image."""
    options = {name: ddim.config[name] for name in ("prediction_type", "clip_sample", "set_alpha_to_one")}
    one = diffusers.DDIMScheduler(trained_betas=ddim.betas.numpy(), **options)
    # Its step goes from timestep to timestep - T // steps.
    one.register_to_config(num_train_timesteps=timestep - after)
    one.num_inference_steps = 1
    return one.step(network(x, timestep), timestep, x).prev_sample


def test_ddims_timesteps_can_be_given(kind):
    ddim = diffusers.DDIMScheduler(**SD)
    ddim.set_timesteps(5)
    scheduler = kind(**SD)
    scheduler.set_timesteps(timesteps=ddim.timesteps.tolist())
    torch.testing.assert_close(scheduler.timesteps[:: kind.order].double(), ddim.timesteps.double(), atol=1e-3, rtol=0)


def test_sigmas_of_both_kinds(kind):
    from diffusers.schedulers import AysSchedules

    scheduler = kind(**SD)
    scheduler.set_timesteps(sigmas=[0.9, 0.5, 0.2])
    assert scheduler.num_inference_steps == 3
    torch.testing.assert_close(scheduler.sigmas[:: kind.order], torch.tensor([0.9, 0.5, 0.2, 0.0]))
    scheduler.set_timesteps(sigmas=[0.9, 0.5, 0.2, 0.0])
    assert scheduler.num_inference_steps == 3
    scheduler.set_timesteps(sigmas=AysSchedules["StableDiffusionSigmas"])
    assert scheduler.num_inference_steps == 10
    wanted = torch.tensor(AysSchedules["StableDiffusionTimesteps"], dtype=torch.float32)
    assert (scheduler.timesteps[:: kind.order] - wanted).abs().max() < 20
    euler = diffusers.EulerDiscreteScheduler(**SD)
    euler.set_timesteps(sigmas=AysSchedules["StableDiffusionSigmas"])
    torch.testing.assert_close(scheduler.timesteps[:: kind.order], euler.timesteps, atol=0.05, rtol=0)


def test_start_from_pure_noise(kind):
    scheduler = kind(**SD, start="noise")
    scheduler.set_timesteps(20)
    assert scheduler.sigmas[0] == 1 and scheduler.init_noise_sigma == 1.0
    assert scheduler.timesteps[0] == scheduler.timesteps[1] == 999  # both below t_min
    assert torch.isfinite(loop(scheduler, noise(), 20)).all()
    assert scheduler.step_index == 20 * kind.order
    other = kind(**SD)
    other.set_timesteps(20)
    assert float(other.sigmas[0]) == pytest.approx(0.93599, abs=1e-4)
    assert other.init_noise_sigma == pytest.approx(0.93818, abs=1e-4)


def test_add_noise_is_the_interpolant_at_every_level(kind):
    scheduler = kind(**SD)
    scheduler.set_timesteps(4)
    x0, eps = noise(1), noise(2)
    for index in range(0, len(scheduler.timesteps), kind.order):
        s = scheduler.sigmas[index]
        made = scheduler.add_noise(x0, eps, scheduler.timesteps[index : index + 1])
        torch.testing.assert_close(made, (1 - s) * x0 + s * eps)
    # Timesteps that are not of this run, one per item, as in training.
    made = scheduler.add_noise(x0, eps, torch.tensor([10, 700]))
    s = 1 - scheduler.alignment.flow_time(torch.tensor([10.0, 700.0])).float().reshape(2, 1, 1, 1)
    torch.testing.assert_close(made, (1 - s) * x0 + s * eps)
    assert scheduler.add_noise(x0.half(), eps.half(), torch.tensor([10, 700])).dtype == torch.float16


def test_no_float64_reaches_a_device(kind, fake_device):
    scheduler = kind(**SD)
    with fake_device():
        loop(scheduler, noise(), 3)


def test_the_run_starts_where_it_is_told(kind):
    scheduler = kind(**SD)
    scheduler.set_timesteps(6)
    scheduler.set_begin_index(2 * kind.order)
    begin = scheduler.timesteps[2 * kind.order]
    x0, eps = noise(1), noise(2)
    s = scheduler.sigmas[2 * kind.order]
    torch.testing.assert_close(scheduler.add_noise(x0, eps, begin.reshape(1)), (1 - s) * x0 + s * eps)
    scheduler.step(noise(3), begin, x0)
    assert scheduler.step_index == 2 * kind.order + 1
    after = scheduler.sigmas[scheduler.step_index]
    torch.testing.assert_close(
        scheduler.add_noise(x0, eps, scheduler.timesteps[:1]), (1 - after) * x0 + after * eps
    )  # inpainting: the level of the next step
    assert scheduler.begin_index == 2 * kind.order


def test_set_timesteps_forgets_the_last_run(kind):
    scheduler = kind(**SD)
    first = loop(scheduler, noise(), 5)
    assert torch.equal(loop(scheduler, noise(), 5), first)
    scheduler.set_begin_index(2)
    scheduler.set_timesteps(5)
    assert scheduler.begin_index is None and scheduler.step_index is None


@pytest.mark.parametrize(
    "options, message",
    [
        ({"prediction_type": "flow_prediction"}, "FlowMatchEulerDiscreteScheduler"),
        ({"start": "t_max"}, "unknown start 't_max'; allowed are 't_min', 'noise'"),
        ({"grid": "karras"}, "unknown grid 'karras'"),
        ({"shift": 0.0}, "shift must be above 0"),
        ({"shift": 2.0, "grid": "logit_normal"}, "one of the grid 'uniform'"),
    ],
)
def test_bad_configurations_get_a_sentence(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(**SD, **options).set_timesteps(4)


def test_flow_models_and_edm_are_refused(kind):
    with pytest.raises(ValueError, match="keep diffusers' FlowMatchEulerDiscreteScheduler"):
        kind.from_config(diffusers.FlowMatchEulerDiscreteScheduler().config)
    flow = diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")
    with pytest.raises(ValueError, match="keep diffusers' FlowMatchEulerDiscreteScheduler"):
        kind.from_config(flow.config)
    with pytest.raises(ValueError, match="continuous sigmas"):
        kind.from_config(diffusers.EDMEulerScheduler().config)


@pytest.mark.parametrize(
    "given, message",
    [
        ({}, "exactly one"),
        ({"num_inference_steps": 3, "sigmas": [0.5]}, "exactly one"),
        ({"num_inference_steps": 0}, "at least 1 step"),
        ({"timesteps": [500, 600]}, "timesteps must fall at every step"),
        ({"timesteps": [1000]}, "from 999 down to 0"),
        ({"timesteps": []}, "one or more numbers"),
        ({"sigmas": [0.5, 0.5]}, "sigmas must fall at every step"),
        ({"sigmas": [0.5, -0.1]}, "above 0"),
    ],
)
def test_bad_levels_get_a_sentence(kind, given, message):
    with pytest.raises(ValueError, match=message):
        kind(**SD).set_timesteps(**given)


def test_an_index_is_not_a_timestep(kind):
    scheduler = kind(**SD)
    scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match="not its index"):
        scheduler.step(noise(), 1, noise())


def test_one_step_too_many(kind):
    scheduler = kind(**SD)
    loop(scheduler, noise(), 2)
    with pytest.raises(ValueError, match="call set_timesteps"):
        scheduler.step(noise(), scheduler.timesteps[-1], noise())


def test_what_is_left_out_is_said(kind, caplog):
    config = {**diffusers.DDIMScheduler(**SD, clip_sample=False).config}
    kind.from_config(config)
    assert not caplog.records
    kind.from_config({**config, "clip_sample": True, "use_karras_sigmas": True})
    assert "leaves out clip_sample, use_karras_sigmas" in caplog.text


def test_a_timestep_off_by_one_is_noticed():
    """The paper's published code hands row i + 1 to the network that was trained on i."""
    scheduler = Diff2FlowEulerScheduler(**SD, grid="timestep_spacing", timestep_spacing="trailing")
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == pytest.approx([999, 749, 499, 249], abs=1e-3)
