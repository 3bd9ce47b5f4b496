"""Native flow matching models: everything that samples takes them as they are."""

import pytest
import torch

KINDS = ("unet", "sd3", "auraflow", "flux")


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def flow(flow_models, build, kind):
    return flow_models.make(kind, build)


@pytest.fixture
def texts(flow_models, kind):
    return flow_models.conditionings(kind)


@pytest.fixture
def empty(flow_models, kind):
    return {"samples": torch.zeros(2, flow_models.SHAPES[kind][0], 8, 8)}


def run(node, flow, texts, latent, solver="euler", grid=None, steps=4, denoise=1.0):
    """Flow KSampler (Diff2Flow) at CFG 3 with seed 42."""
    grid = grid or {"grid": "uniform"}
    return node("D2FKSampler").execute(flow, 42, steps, 3.0, {"solver": solver}, grid, *texts, latent, denoise).result


def test_the_timestep_is_that_of_the_host(host, flow, flow_models, kind):
    alignment = host.alignment_of(flow)
    assert alignment.prediction == "flow" and alignment.schedule.multiplier == flow_models.SHAPES[kind][3]
    sampling, s = host.sampling_of(flow), torch.linspace(0.01, 1, 9)
    assert torch.allclose(alignment.timestep(1 - s), sampling.timestep(s), rtol=1e-5, atol=1e-5)


def test_samplers_of_the_pack_take_it_as_it_is(host, node, flow, texts, empty):
    """At the levels of the grid, Euler is the host's Euler."""
    ours, nfe = run(node, flow, texts, empty)
    import comfy.samplers

    euler = comfy.samplers.ksampler("euler")
    stock = host.sample(flow, empty, *texts, 3.0, euler, torch.linspace(1, 0, 5), 42)["samples"]
    assert nfe == 4 and torch.isfinite(stock).all() and stock.std() > 0.1
    assert (ours["samples"] - stock).abs().max() < 1e-5 * (stock.max() - stock.min())


@pytest.mark.parametrize("solver, steps", [("rk4", 3), ("dopri5", 4), ("heun", 4)])
def test_solvers_take_it(node, flow_models, build, solver, steps):
    flow, texts = flow_models.make("sd3", build), flow_models.conditionings("sd3")
    latent, nfe = run(node, flow, texts, {"samples": torch.zeros(1, 16, 8, 8)}, solver, steps=steps)
    assert torch.isfinite(latent["samples"]).all() and nfe > steps


@pytest.fixture
def ode(node):
    """`ode("rk4", ...)` -> SAMPLER of ODE Sampler."""
    return lambda solver, **extra: node("D2FSampler").execute({"solver": solver, **extra}).result[0]


def test_euler_of_the_ode_sampler_is_the_stock_euler(host, flow, texts, empty, ode):
    """At the levels of the host's own scheduler, which the model's shift has moved, and at some that end above 0."""
    import comfy.samplers

    euler = comfy.samplers.ksampler("euler")
    for levels in (host.stock_sigmas(flow, "simple", 5), torch.tensor([0.8, 0.5, 0.3])):
        stock, ours = (
            host.sample(flow, empty, *texts, 3.0, one, levels, 42)["samples"] for one in (euler, ode("euler"))
        )
        assert torch.isfinite(stock).all() and stock.std() > 0.1
        assert (ours - stock).abs().max() < 1e-5 * (stock.max() - stock.min())


@pytest.mark.parametrize("solver, steps, bound", [
    ("euler", 40, 0.04), ("midpoint", 20, 1e-4), ("heun", 20, 2e-3), ("rk4", 10, 2e-5), ("dopri5", 4, 5e-5),
])  # fmt: skip
def test_the_ode_sampler_finds_the_exact_answer(
    flow, flow_models, texts, empty, ode, kind, monkeypatch, solver, steps, bound
):
    """Gaussian latents of deviation d: the flow moves x along x / sqrt(s^2 + (1 - s)^2 d^2) = const."""
    import comfy.sample

    d, most = 0.5, flow_models.SHAPES[kind][3]
    if solver == "dopri5":
        pytest.importorskip("torchdiffeq")

    def variance(s):
        return s**2 + (1 - s) ** 2 * d**2

    def network(x, timesteps, *_, **__):
        s = (timesteps.double() / most).reshape(-1, 1, 1, 1)
        return ((s - (1 - s) * d**2) / variance(s) * x).to(x.dtype)

    monkeypatch.setattr(flow.model.diffusion_model, "forward", network)
    noise = torch.randn(empty["samples"].shape, generator=torch.Generator().manual_seed(3))
    sampler = ode(solver, **({"rtol": 1e-6, "atol": 1e-6, "max_nfe": 2000} if solver == "dopri5" else {}))
    out = comfy.sample.sample_custom(
        flow, noise, 1.0, sampler, torch.linspace(0.97, 0.1, steps + 1), *texts, torch.zeros_like(noise),
        disable_pbar=True,
    )  # fmt: skip
    found, exact = flow.model.process_latent_in(out) * 0.9, 0.97 * noise * (variance(0.1) / variance(0.97)) ** 0.5
    assert (found - exact).abs().max() < bound * exact.abs().max()


def test_the_scheduler_of_the_pack_starts_at_pure_noise(host, node, flow, stock):
    schedule = node("D2FScheduler").execute
    assert torch.allclose(schedule(flow, {"grid": "uniform"}, 4, 1.0).result[0], torch.linspace(1, 0, 5))
    given = {"grid": "stock scheduler", "scheduler": "simple"}
    assert torch.equal(schedule(flow, given, 6, 1.0).result[0], host.stock_sigmas(flow, "simple", 6))


@pytest.fixture
def told(part, monkeypatch):
    """What nodes write on themselves."""
    texts = []
    monkeypatch.setattr(part("host.conversion"), "tell", texts.append)
    return texts


def test_the_converter_passes_it_through_and_says_so(node, flow, told, sample, kind):
    out = node("D2FConvert").execute(flow, "t_min", 1.0, "auto").result[0]
    assert out is flow
    assert len(told) == 1 and "is a flow matching model as it is" in told[0] and "passed on unchanged" in told[0]


def test_a_flow_patch_on_a_checkpoint_of_sdxls_shape(host, node, eps_model, stock, told):
    """bigASP and its like: eps by the stock loader, right behind ModelSamplingSD3."""
    behind = stock("model_advanced", "ModelSamplingSD3")().patch(eps_model, 4.5)[0]
    assert node("D2FConvert").execute(behind, "noise", 1.0, "auto").result[0] is behind
    assert "(shift 4.5)" in told[0] and host.REPORT_NODE in told[0]
    assert host.alignment_of(behind).schedule.multiplier == 1000
    assert host.flow_settings(behind) == ("noise", 4.5)
    aura = stock("model_advanced", "ModelSamplingAuraFlow")().patch_aura(eps_model, 1.73)[0]
    assert host.alignment_of(aura).schedule.multiplier == 1
    flux = stock("model_advanced", "ModelSamplingFlux")().patch(eps_model, 1.15, 0.5, 1024, 1024)[0]
    assert host.alignment_of(flux).schedule.multiplier == 1


@pytest.mark.parametrize("shift, prediction, words", [
    (3.0, "auto", "shift is 3, but .*set the shift in ModelSamplingSD3, and here to 1"),
    (1.0, "eps", "prediction is 'eps', but .*remove that ModelSampling node; .*'Model Report"),
])  # fmt: skip
def test_what_only_a_conversion_can_do_is_refused(node, build, shift, prediction, words):
    with pytest.raises(ValueError, match=words):
        node("D2FConvert").execute(build(flow=True), "t_min", shift, prediction)


def test_other_flow_models_are_refused_by_name(host, node, eps_model, stock_sampling, stock, build):
    patched = stock_sampling(eps_model, "img_to_img_flow")
    with pytest.raises(ValueError, match="IMG_TO_IMG_FLOW"):
        node("D2FConvert").execute(patched, "t_min", 1.0, "auto")
    with pytest.raises(ValueError, match=r"IMG_TO_IMG_FLOW.*'a node'"):
        host.alignment_of(patched, "a node")
    sampling = build(flow=True)
    noisy = sampling.clone()
    own = host.sampling_of(sampling)
    own.noise_scale = 8.0
    with pytest.raises(ValueError, match=r"noise of the scale 8; 'a node' takes .*remove ModelNoiseScale"):
        host.alignment_of(noisy, "a node")


def test_timesteps_of_another_kind_are_refused(host, eps_model, stock):
    behind = stock("model_advanced", "ModelSamplingSD3")().patch(eps_model, 3.0)[0]
    sampling = host.sampling_of(behind)

    class Logarithmic(type(sampling)):
        def timestep(self, sigma):
            return 1000 * sigma.log1p()

    sampling.__class__ = Logarithmic
    with pytest.raises(ValueError, match="Logarithmic, whose timesteps are not proportional to sigma"):
        host.alignment_of(behind, "a node")


def test_nothing_of_the_packs_is_left_on_it(host, node, flow, texts, empty, fingerprint, kind):
    mark = fingerprint(flow)
    run(node, flow, texts, empty)
    node("D2FConvert").execute(flow, "t_min", 1.0, "auto")
    assert fingerprint(flow) == mark and flow.object_patches == {} and not flow.wrappers
