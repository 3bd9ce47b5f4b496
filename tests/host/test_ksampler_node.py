"""Flow KSampler (Diff2Flow) and Flow Scheduler: the nodes as the host calls them."""

import inspect

import pytest
import torch

GRIDS = [
    {"grid": "uniform"},
    {"grid": "shifted", "shift": 3.0},
    {"grid": "logit_normal", "mean": -0.5, "std": 1.0},
    {"grid": "stock scheduler", "scheduler": "karras"},
]
SOLVERS = [
    {"solver": "euler"},
    {"solver": "rk4"},
    {"solver": "dopri5", "rtol": 1e-2, "atol": 1e-2, "max_nfe": 500},
]


@pytest.fixture
def ksampler(node, conditioning):
    """`ksampler(model, ..)` -> (LATENT, number of model evaluations)."""
    execute = node("D2FKSampler").execute

    def run(model, solver=SOLVERS[0], grid=GRIDS[0], steps=4, denoise=1.0, **latent):
        latent.setdefault("samples", torch.zeros(1, 4, 8, 8))
        return execute(model, 9, steps, 2.0, solver, grid, *conditioning, latent, denoise).result

    return run


@pytest.fixture
def scheduler(node):
    """`scheduler(model, grid, steps, denoise)` -> SIGMAS."""
    execute = node("D2FScheduler").execute
    return lambda model, grid, steps=8, denoise=1.0: execute(model, grid, steps, denoise).result[0]


@pytest.fixture(params=["unconverted", "converted", "native flow"])
def model(request, host, build):
    if request.param == "native flow":
        return build(flow=True)
    return build("EPS") if request.param == "unconverted" else host.convert(build("EPS"))


@pytest.mark.parametrize("solver, grid", list(zip(SOLVERS, GRIDS[1:])), ids=["euler", "rk4", "dopri5"])
def test_it_equals_the_separate_nodes(host, node, stock, conditioning, ksampler, scheduler, model, solver, grid):
    latent, nfe = ksampler(model, solver, grid)
    flow = model if host.is_flow(model) else host.convert(model)
    sampler = node("D2FSampler").execute(solver).result[0]
    sigmas = scheduler(flow, grid, 4)
    empty = {"samples": torch.zeros(1, 4, 8, 8)}
    custom = stock("custom_sampler", "SamplerCustom").execute
    separate = custom(flow, True, 9, 2.0, *conditioning, sampler, sigmas, empty).result[0]
    assert torch.equal(latent["samples"], separate["samples"])
    assert isinstance(nfe, int)
    assert nfe == {"euler": 4, "rk4": 15}.get(solver["solver"], nfe) and nfe > 3


def test_euler_on_stock_levels_is_the_stock_ksampler(host, eps_model, conditioning, ksampler):
    import nodes

    grid = {"grid": "stock scheduler", "scheduler": "simple"}
    ours, nfe = ksampler(eps_model, grid=grid, steps=6)
    stock = nodes.KSampler().sample
    empty = {"samples": torch.zeros(1, 4, 8, 8)}
    for model, tolerance in ((host.convert(eps_model), 1e-5), (eps_model, 1e-3)):
        theirs = stock(model, 9, 6, 2.0, "euler", "simple", *conditioning, empty, 1.0)[0]["samples"]
        assert (ours["samples"] - theirs).abs().max() < tolerance * (theirs.max() - theirs.min())
    assert nfe == 6


def test_the_model_that_comes_in_is_not_changed(host, eps_model, ksampler, fingerprint):
    ksampler(eps_model, steps=1)
    mark = fingerprint(eps_model)
    ksampler(eps_model)
    assert fingerprint(eps_model) == mark
    assert not host.is_flow(eps_model)


def test_no_denoise_returns_the_latent(model, ksampler):
    samples = torch.randn(1, 4, 8, 8, generator=torch.manual_seed(0))
    latent, nfe = ksampler(model, samples=samples, denoise=0.0)
    assert torch.equal(latent["samples"], samples)
    assert nfe == 0


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: grid["grid"])
def test_partial_denoise_keeps_some_of_the_latent(host, build, ksampler, grid):
    samples = torch.randn(1, 4, 8, 8, generator=torch.manual_seed(0))
    outs = {denoise: ksampler(build("EPS"), grid=grid, samples=samples, denoise=denoise) for denoise in (0.2, 0.6)}
    assert [nfe for _, nfe in outs.values()] == [4, 4]
    near, far = ((out["samples"] - samples).std() for out, _ in outs.values())
    assert 0 < near < far


def test_mask_and_other_keys_of_the_latent(eps_model, ksampler):
    samples = torch.randn(1, 4, 8, 8, generator=torch.manual_seed(0))
    mask = torch.zeros(1, 64, 64)
    mask[..., :32] = 1
    out, _ = ksampler(eps_model, samples=samples, noise_mask=mask, batch_index=[5])
    assert set(out) == {"samples", "noise_mask", "batch_index"}
    assert torch.allclose(out["samples"][..., 4:], samples[..., 4:], atol=2e-5)


def test_other_latent_channels_of_an_empty_latent_are_fixed(eps_model, ksampler):
    """The host widens an empty latent to the model's channels; so does this node."""
    out, _ = ksampler(eps_model, samples=torch.zeros(1, 16, 8, 8))
    assert out["samples"].shape == (1, 4, 8, 8)


@pytest.mark.parametrize("value, side", [(0.0, 8), (1.0, 4)], ids=["empty", "an image"])
def test_a_latent_of_another_scale_is_as_with_the_stock_ksampler(host, eps_model, conditioning, ksampler, value, side):
    import nodes

    latent = {"samples": torch.full((1, 4, 4, 4), value), "downscale_ratio_spacial": 16}
    ours, _ = ksampler(eps_model, **latent)
    stock = nodes.KSampler().sample
    theirs = stock(host.convert(eps_model), 9, 4, 2.0, "euler", "simple", *conditioning, latent, 1.0)[0]
    assert ours["samples"].shape == theirs["samples"].shape == (1, 4, side, side)
    assert set(ours) == set(theirs) == {"samples"}
    assert set(latent) == {"samples", "downscale_ratio_spacial"}


@pytest.mark.parametrize("known", [0, 1, 2])
def test_the_host_is_told_the_ratios_that_it_knows(eps_model, ksampler, monkeypatch, known):
    """ComfyUI 0.16.3 and 0.18.2 know one, later ones two; those that it does not know stay where they are."""
    import comfy.sample

    ratios = {"downscale_ratio_spacial": 16, "downscale_ratio_temporal": 4}
    names, told = list(ratios)[:known], {}

    def fit(model, samples, **options):
        told.update(options)
        return samples

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    fit.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in ["model", "samples", *names]])
    monkeypatch.setattr(comfy.sample, "fix_empty_latent_channels", fit)
    out, _ = ksampler(eps_model, **ratios)
    assert told == {name: ratios[name] for name in names}
    assert set(out) == {"samples", *ratios} - set(names)


def test_models_that_cannot_be_converted_are_refused(build, ksampler):
    with pytest.raises(ValueError, match=r"StableCascadeSampling, .*.Flow KSampler \(Diff2Flow\)."):
        ksampler(build("STABLE_CASCADE"))


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: grid["grid"])
@pytest.mark.parametrize("start", ["t_min", "noise"])
@pytest.mark.parametrize("steps", [1, 8])
def test_levels_of_the_scheduler(host, eps_model, scheduler, grid, start, steps):
    converted = host.convert(eps_model, start)
    levels = scheduler(converted, grid, steps)
    assert levels.dtype == torch.float32 and levels.shape == (steps + 1,)
    assert (levels.diff() < 0).all()
    assert levels[-1] == 0
    assert float(levels[0]) == pytest.approx(float(host.sampling_of(converted).sigma_max), abs=1e-6)
    assert levels[0] <= 1


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: grid["grid"])
@pytest.mark.parametrize("denoise", [0.0, 0.4, 0.99, 1.0])
def test_denoise_of_the_scheduler_takes_the_end_of_a_longer_schedule(host, eps_model, scheduler, grid, denoise):
    converted = host.convert(eps_model)
    levels = scheduler(converted, grid, 8, denoise)
    if denoise == 0:
        assert len(levels) == 0
    else:
        assert torch.equal(levels, scheduler(converted, grid, int(8 / denoise))[-9:])


def test_uniform_levels_are_uniform(host, eps_model, scheduler):
    levels = scheduler(host.convert(eps_model), {"grid": "uniform"}, 5)
    assert torch.allclose(levels.diff(), levels.diff()[0].expand(5), atol=1e-6)


def test_a_stock_scheduler_gives_what_the_stock_node_gives(host, eps_model, stock, scheduler):
    converted = host.convert(eps_model, shift=2.0)
    basic = stock("custom_sampler", "BasicScheduler").execute
    for name, denoise in (("simple", 1.0), ("normal", 0.5), ("linear_quadratic", 0.8)):
        ours = scheduler(converted, {"grid": "stock scheduler", "scheduler": name}, 6, denoise)
        assert torch.allclose(ours, basic(converted, name, 6, denoise).result[0], atol=1e-7)


@pytest.mark.parametrize("name", ["karras", "exponential", "kl_optimal"])
def test_a_scheduler_that_spaces_sigma_has_the_levels_of_the_diffusion_model(host, eps_model, stock, scheduler, name):
    basic = stock("custom_sampler", "BasicScheduler").execute
    ve = basic(eps_model, name, 6, 0.8).result[0]
    ours = scheduler(host.convert(eps_model), {"grid": "stock scheduler", "scheduler": name}, 6, 0.8)
    assert torch.allclose(ours, ve / (1 + ve), atol=1e-6)
    whole = basic(eps_model, name, 6, 1.0).result[0]
    noise = scheduler(host.convert(eps_model, "noise"), {"grid": "stock scheduler", "scheduler": name}, 6)
    assert noise[0] == 1 and torch.allclose(noise[1:], (whole / (1 + whole))[1:], atol=1e-6)


def test_the_scheduler_refuses_a_diffusion_model_by_name(eps_model, scheduler):
    with pytest.raises(ValueError, match=r"diffusion model \(BaseModel\); put 'Convert to Flow Matching' before"):
        scheduler(eps_model, {"grid": "uniform"})


def test_arguments_of_execute_are_the_inputs_of_the_schema(node):
    for name in ("D2FKSampler", "D2FScheduler", "D2FConvert"):
        cls = node(name)
        ids = [one.id for one in cls.define_schema().inputs]
        assert ids == list(inspect.signature(cls.execute).parameters)
