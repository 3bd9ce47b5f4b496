"""Inpainting, image to image, batches and previews on a converted model."""

import pytest
import torch

LEVELS = torch.tensor([0.9, 0.7, 0.4, 0.1, 0.0])


@pytest.fixture
def original(build):
    return build("EPS")


@pytest.fixture
def converted(host, original):
    return host.convert(original)


@pytest.fixture
def latent():
    return torch.randn(2, 4, 8, 8, generator=torch.manual_seed(11))


@pytest.fixture(params=["euler", "heun", "ode euler", "ode midpoint"])
def sampler(request, node):
    import comfy.samplers

    if request.param.startswith("ode "):
        return node("D2FSampler").execute({"solver": request.param[4:]}).result[0]
    return comfy.samplers.ksampler(request.param)


@pytest.fixture
def mask():
    mask = torch.zeros(2, 1, 64, 64)
    mask[..., :32] = 1
    return mask


def test_the_masked_half_is_the_latent_itself(converted, sample, latent, sampler, mask):
    out = sample(converted, LEVELS, sampler, samples=latent, noise_mask=mask)
    free = sample(converted, LEVELS, sampler, samples=latent)
    assert torch.allclose(out[..., 4:], latent[..., 4:], atol=2e-5)
    assert (out[..., :4] - latent[..., :4]).abs().max() > 0.1
    assert not torch.allclose(out[..., :4], free[..., :4], atol=1e-3)


def test_inpainting_is_that_of_the_unconverted_model(original, converted, sample, latent, mask, table_levels):
    ve = table_levels(original, 6)
    stock = sample(original, ve, samples=latent, noise_mask=mask)
    ours = sample(converted, ve / (1 + ve), samples=latent, noise_mask=mask)
    assert (stock - ours).abs().max() < 1e-4 * (stock.max() - stock.min())


def test_ode_euler_inpaints_like_the_stock_euler(converted, node, sample, latent, mask):
    ours = node("D2FSampler").execute({"solver": "euler"}).result[0]
    both = [sample(converted, LEVELS, sampler, samples=latent, noise_mask=mask) for sampler in ("euler", ours)]
    assert torch.allclose(*both, atol=1e-5 * float(both[0].abs().max()))


def test_differential_diffusion_as_unconverted(original, converted, stock, sample, latent, table_levels):
    """Its threshold is the model's own `timestep`: each strip of the mask opens at the same step."""
    patch = stock("differential_diffusion", "DifferentialDiffusion").execute
    strips = torch.linspace(0, 1, 8).repeat_interleave(8).expand(2, 1, 64, 64)
    ve = table_levels(original, 8)
    before = sample(patch(original).result[0], ve, samples=latent, noise_mask=strips)
    after = sample(patch(converted).result[0], ve / (1 + ve), samples=latent, noise_mask=strips)
    plain = sample(converted, ve / (1 + ve), samples=latent, noise_mask=strips)
    assert (before - plain).abs().max() > 0.05 * (before.max() - before.min())
    assert (before - after).abs().max() < 1e-4 * (before.max() - before.min())


@pytest.mark.parametrize("denoise", [0.3, 0.7])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_denoise_of_the_ksampler_keeps_some_of_the_latent(host, original, conditioning, latent, denoise, shift):
    import nodes

    ksampler = nodes.KSampler().sample

    def run(model, amount):
        return ksampler(model, 5, 8, 2.0, "euler", "simple", *conditioning, {"samples": latent}, amount)[0]["samples"]

    out = run(host.convert(original, shift=shift), denoise)
    assert torch.isfinite(out).all()
    assert (out - latent).std() < (run(host.convert(original, shift=shift), 1.0) - latent).std()
    if shift == 1.0:
        before = run(original, denoise)
        assert (before - out).abs().max() < 1e-3 * (before.max() - before.min())


def test_a_state_of_a_latent_is_the_flow_interpolant(host, converted, latent):
    s, noise = torch.tensor(0.7), torch.randn(latent.shape, generator=torch.manual_seed(1))
    state = host.sampling_of(converted).noise_scaling(s, noise, latent)
    assert torch.allclose(state, 0.7 * noise + 0.3 * latent, atol=1e-6)
    assert torch.allclose(host.sampling_of(converted).inverse_noise_scaling(s, 0.3 * latent), latent, atol=1e-6)


def test_a_batch_is_its_items(host, converted, conditioning, sampler):
    def run(batch_index, count):
        latent = {"samples": torch.zeros(count, 4, 8, 8), "batch_index": batch_index}
        return host.sample(converted, latent, *conditioning, 3.0, sampler, LEVELS, 42)["samples"]

    together = run([0, 1, 2], 3)
    assert not torch.allclose(together[0], together[1], rtol=0.1)
    for item in range(3):
        alone = run([item], 1)
        assert torch.allclose(together[item], alone[0], atol=1e-4 * float(alone.abs().max()))


def test_context_windows(converted, original, stock, sample, table_levels):
    """Windows over the batch, as for animations: fused as on the unconverted model."""
    patch = stock("context_windows", "ContextWindowsManualNode").execute
    windows = (2, 1, "standard_static", 1, False, "pyramid", 0, False)
    ve = table_levels(original, 3)
    frames = torch.zeros(4, 4, 8, 8)
    before = sample(patch(original, *windows).result[0], ve, samples=frames)
    after = sample(patch(converted, *windows).result[0], ve / (1 + ve), samples=frames)
    assert (before - after).abs().max() < 1e-4 * (before.max() - before.min())


def test_previews_show_the_clean_latent(gaussian, host, conditioning, sampler, request):
    """The callback's `denoised` is x0 at each step, in the model's scale: for Gaussian data, its mean."""
    import comfy.sample

    model = host.convert(gaussian("EPS", 0.5))
    seen = []
    noise = torch.randn(1, 4, 16, 16, generator=torch.manual_seed(1))
    comfy.sample.sample_custom(
        model, noise, 1.0, sampler, LEVELS, *conditioning, torch.zeros_like(noise),
        callback=lambda step, x0, x, total: seen.append((step, x0.clone(), x.clone(), total)), disable_pbar=True,
    )  # fmt: skip
    assert [step for step, _, _, _ in seen] == [0, 1, 2, 3]
    assert {total for _, _, _, total in seen} == {4}
    for _, x0, x, _ in seen:
        ratio = (x0 / x).flatten()
        assert ratio.std() < 1e-4  # the ideal x0 is a multiple of the state ..
    weights = [float((x0 / x).mean()) for _, x0, x, _ in seen]
    assert weights == sorted(weights)  # .. that grows as the noise goes
    if request.node.callspec.params["sampler"].endswith("euler"):
        expected = [(1 - s) * 0.25 / ((1 - s) ** 2 * 0.25 + s**2) for s in LEVELS[:-1].tolist()]
        assert weights == pytest.approx(expected, rel=1e-3)


def test_the_stock_node_gives_the_last_clean_latent(host, converted, node, stock, conditioning):
    """SamplerCustom's `denoised_output` is the last callback's x0: with an end at 0 it is near the output."""
    run = stock("custom_sampler", "SamplerCustom").execute
    ours = node("D2FSampler").execute({"solver": "euler"}).result[0]
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    out, x0 = run(converted, True, 5, 2.0, *conditioning, ours, LEVELS, latent).result
    assert torch.allclose(out["samples"], x0["samples"], atol=1e-5 * float(x0["samples"].abs().max()))
