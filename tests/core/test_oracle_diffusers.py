"""Euler in flow time is DDIM: checked against diffusers' scheduler, in float32."""

import pytest
import torch

from d2f_core import FlowAlignment, NoiseSchedule, solve

schedulers = pytest.importorskip("diffusers.schedulers", reason="the oracle is diffusers'")

PREDICTION_TYPES = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}


def network(x_dm, timestep):
    """Any smooth function of input and timestep does: the two samplers must only ask it the same."""
    return torch.tanh(x_dm.roll(1, -1) * 1.3 + x_dm * 0.4) + 0.3 * torch.sin(timestep / 150)


def ddim(name, betas, x, steps):
    scheduler = schedulers.DDIMScheduler(
        trained_betas=betas.numpy(),
        prediction_type=PREDICTION_TYPES[name],
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(steps)
    for timestep in scheduler.timesteps:
        x = scheduler.step(network(x, timestep.float()), timestep, x).prev_sample
    return x, scheduler.timesteps


@pytest.mark.parametrize("name", PREDICTION_TYPES)
@pytest.mark.parametrize("steps", [4, 10, 50])
def test_euler_in_flow_time_is_ddim(name, steps):
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alignment = FlowAlignment(NoiseSchedule.from_betas(betas), name)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    expected, timesteps = ddim(name, betas, noise, steps)

    def velocity(t, x_fm):
        output = network(alignment.to_diffusion(x_fm, t), alignment.timestep(t).float())
        return alignment.velocity(output, x_fm, t)

    ts = torch.cat([alignment.flow_time(timesteps), torch.ones(1, dtype=torch.float64)])
    ours = solve(velocity, alignment.to_flow(noise, ts[0]), ts, "euler")
    assert expected.std() > 0.3
    assert (ours - expected).abs().max() < 1e-5 * max(1.0, float(expected.abs().max()))
