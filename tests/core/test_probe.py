"""The probe on networks that are ideal for Gaussian data: each is named, and what cannot be known is not guessed."""

import math
from dataclasses import dataclass

import pytest
import torch

from d2f_core import FlowSchedule, NoiseSchedule
from d2f_core.probe import LEAST_GAP, LEVELS, MOST_ERROR, MOST_SLOPE_OFF, candidates, compare, decide, probe, regress

KINDS = ("eps", "v", "x0", "edm", "flow", "velocity")
SIZE, STEPS = 32, 1000
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, STEPS, dtype=torch.float64) ** 2  # Stable Diffusion's
ALPHAS_CUMPROD = torch.cumprod(1 - BETAS, dim=0)
OPTIONS = candidates(NoiseSchedule.from_alphas_cumprod(ALPHAS_CUMPROD), FlowSchedule(1000.0))


@dataclass(frozen=True)
class Spectrum:
    """Images whose frequencies f are independent with variances proportional to f^-power; total variance 1 per pixel.

    Powers of 2 to 3 are those of photographs. All of the posterior is known: a Wiener filter for each noise level.
    """

    power: float

    @property
    def variance(self):
        f = torch.fft.fftfreq(SIZE, dtype=torch.float64) * SIZE
        variance = (f[:, None] ** 2 + f**2).sqrt().clamp(min=1) ** -self.power
        return variance / variance.mean()

    def filter(self, x, gain):
        return torch.fft.ifft2(torch.fft.fft2(x.double()) * gain).real

    def draw(self, count, seed):
        white = torch.randn(count, 4, SIZE, SIZE, generator=torch.Generator().manual_seed(1000 + seed))
        return self.filter(white, self.variance.sqrt()).float()

    def posterior(self, x, weight, noise):
        """E[x0 | x] and E[eps | x] for x = weight x0 + noise eps."""
        x0 = self.filter(x, weight * self.variance / (weight**2 * self.variance + noise**2))
        return x0, (x - weight * x0) / noise

    def network(self, kind, calls=None):
        """The ideal network of a kind, which believes in its timestep."""

        def answer(s, asked):
            if calls is not None:
                calls.append((s, tuple(asked.network_input.shape)))
            timestep = float(asked.timestep[0])
            if kind in ("flow", "velocity"):
                noise = timestep / STEPS
                x0, eps = self.posterior(asked.network_input, 1 - noise, noise)
                return (eps - x0) if kind == "flow" else (x0 - eps)
            row = min(int(timestep), STEPS - 2)
            low, high = ((1 / ALPHAS_CUMPROD[i] - 1).log() / 2 for i in (row, row + 1))
            ve = math.exp(torch.lerp(low, high, timestep - row))
            alpha, sigma = 1 / math.hypot(1, ve), ve / math.hypot(1, ve)
            x0, eps = self.posterior(asked.network_input, alpha, sigma)
            v = alpha * eps - sigma * x0
            return {"eps": eps, "v": v, "x0": x0, "edm": -v}[kind]

        return answer


PHOTOS = Spectrum(3.0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_network_is_named(kind, seed):
    found = probe(PHOTOS.network(kind), OPTIONS, PHOTOS.draw(4, seed), seed)
    assert found.name == kind, found.reason
    assert 0.3 < max(found.errors[kind]) < MOST_ERROR
    assert max(abs(slope - 1) for slope in found.slopes[kind]) < 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_what_latents_cannot_show_is_not_guessed(kind):
    """White noise instead of images: what is left of u is nearly all of it."""
    white = Spectrum(0.0)
    assert probe(white.network(kind), OPTIONS, white.draw(4, 0), 0).name == ""
    assert probe(PHOTOS.network(kind), OPTIONS, white.draw(4, 0), 0).name == ""


@pytest.mark.parametrize("seed", range(3))
def test_a_network_that_knows_nothing_is_not_named(seed):
    generator = torch.Generator().manual_seed(2000 + seed)

    def network(s, asked):
        return torch.randn(asked.network_input.shape, generator=generator)

    found = probe(network, OPTIONS, PHOTOS.draw(4, seed), seed)
    assert found.name == "" and "relative error" in found.reason


def test_nan_is_an_answer_of_its_own():
    found = probe(lambda s, asked: asked.network_input * math.nan, OPTIONS, PHOTOS.draw(4, 0), 0)
    assert found.name == "" and "NaN" in found.reason


def test_calls_are_few_and_the_seed_decides():
    calls = []
    network, x0 = PHOTOS.network("v", calls), PHOTOS.draw(4, 0)
    first = probe(network, OPTIONS, x0, 5)
    assert [s for s, _ in calls] == [*LEVELS, *LEVELS] and {shape for _, shape in calls} == {tuple(x0.shape)}
    assert len(calls) <= 8
    assert probe(network, OPTIONS, x0, 5) == first
    assert probe(network, OPTIONS, x0, 6).errors != first.errors


def test_the_error_is_the_posterior_deviation():
    """Independent of the probe's arithmetic: Var[u | x] = Var[x0 | x] / s^2, frequency by frequency."""
    found, x0 = probe(PHOTOS.network("eps"), OPTIONS, PHOTOS.draw(64, 3), 3), PHOTOS.variance
    for s, error in zip(LEVELS, found.errors["eps"]):
        t = 1 - s
        rest = (x0 / (t**2 * x0 + s**2)).mean()  # Var[x0 | x] / s^2 = variance / (t^2 variance + s^2)
        assert error == pytest.approx(math.sqrt(float(rest) / 2), rel=0.02)


def test_the_regression_shows_what_an_oracle_returns():
    """A network that is told noise and latent returns its target exactly."""
    x0, eps = PHOTOS.draw(4, 0), PHOTOS.draw(4, 1)
    assert regress(eps, eps, x0) == pytest.approx((1, 0), abs=1e-6)
    assert regress(0.6 * eps - 0.8 * x0, eps, x0) == pytest.approx((0.6, -0.8), abs=1e-6)
    assert all(map(math.isnan, regress(eps, eps, torch.zeros_like(x0))))


def test_error_and_slope():
    true = torch.tensor([[3.0, 4.0]])
    assert compare(true, true) == pytest.approx((0, 1))
    assert compare(true / 2, true) == pytest.approx((0.5, 2))
    assert compare(torch.zeros(1, 2), true) == pytest.approx((1, 0))


def figures(best, after, slope=1.0):
    return {"eps": [0.1, best, 0.1], "v": [0.2, after, 0.2]}, {"eps": [1.0, slope, 1.0], "v": [1.0] * 3}


@pytest.mark.parametrize(
    "arguments, name, word",
    [
        ((0.5, 0.9), "eps", "next best"),
        ((0.9, 0.5), "v", "next best"),
        ((MOST_ERROR + 0.01, 2.0), "", "relative error"),
        ((0.5, 0.9, 1 + 1.1 * MOST_SLOPE_OFF), "", "off in size"),
        ((0.5, 0.9, 1 - 1.1 * MOST_SLOPE_OFF), "", "off in size"),
        ((0.5, math.sqrt(0.25 + 0.9 * LEAST_GAP)), "", "almost alike"),
        ((math.nan, math.nan), "", "NaN"),
    ],
)
def test_thresholds(arguments, name, word):
    found, reason = decide(*figures(*arguments))
    assert found == name and word in reason


def test_latents_of_another_scale_are_seen_in_the_slope():
    """As a network that has learned one scale, not the ideal one for all: its posterior means are not rescaled."""
    for scale in (0.18, 5.5):
        found = probe(Spectrum(2.0).network("eps"), OPTIONS, scale * Spectrum(2.0).draw(4, 0), 0)
        assert found.name == ""
