"""The coordinates on a device: few operations, none in float64, no wait, and as right as float32 can be."""

import pytest
import torch

from d2f_core import FlowAlignment, FlowTime, Interpolant, NaiveAlignment, Objective

MOST_KERNELS = 16
META = torch.device("meta")


def call_of_the_network(alignment, sigma, x, output):
    """Input scale, timestep and x0, as the host asks for them: each with its own sigma."""
    return (
        alignment.to_diffusion(x, FlowTime(s=sigma)),
        alignment.timestep(FlowTime(s=sigma)),
        alignment.denoised(output, x, FlowTime(s=sigma)),
    )


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
@pytest.mark.parametrize("shape", [(), (4,)])
def test_a_network_call_costs_few_operations(sd, fake_device, prediction, shape):
    alignment = FlowAlignment(sd.schedule, prediction)
    sigma, latents = torch.empty(shape, device=META), torch.empty(4, 4, 8, 8, device=META)
    call_of_the_network(alignment, sigma, latents, latents)  # the tables are copied once
    with fake_device(waits=False) as device:
        made = call_of_the_network(alignment, sigma, latents, latents)
    print(f"{prediction}: {len(device.kernels)} kernels of {device.total} operations: {device.kernels}")
    assert len(device.kernels) <= MOST_KERNELS or prediction == "x0"
    assert {value.dtype for value in made} == {torch.float32}


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
@pytest.mark.parametrize("kind", [FlowAlignment, NaiveAlignment])
def test_velocity_and_loss_need_no_float64_and_no_wait(sd, fake_device, kind, prediction):
    """In training t is on the CPU, in float64, and only weights in float32 reach the device."""
    alignment = kind(sd.schedule, prediction)
    x, output = torch.empty(2, 4, 4, 8, 8, device=META)
    t = torch.rand(4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pair = Interpolant(x, output, t)
    with fake_device(waits=False):
        alignment.velocity(output, x, t)
        alignment.velocity(output, x, torch.tensor(0.3, dtype=torch.float64))
        alignment.velocity(output, x, torch.empty(4, device=META))
        for name in ("diff2flow", "naive_fm", "diffusion"):
            objective = Objective(alignment, name, weight="v")
            asked = objective.model_input(pair)
            assert asked.timestep.device.type == "cpu" and asked.network_input.device == META
            assert objective.loss(output, pair).device == META


@pytest.mark.parametrize("spoil", [lambda x: x.double(), lambda x: x[0, 0, 0, 0].double(), lambda x: x.sum().item()])
def test_the_fake_device_has_teeth(fake_device, spoil):
    with pytest.raises((TypeError, AssertionError), match=r"no float64|waits"), fake_device(waits=False):
        spoil(torch.zeros(2, 4, 8, 8))


def test_float32_is_as_right_as_it_can_be(case, generator):
    """Against float64, relative to the largest value; sigma is what the host has."""
    sigma = torch.linspace(1e-4, 1, 2049)
    x, output = torch.randn(2, len(sigma), 7, generator=generator)
    exact = call_of_the_network(case.alignment, sigma.double(), x.double(), output.double())
    for value, wanted in zip(call_of_the_network(case.alignment, sigma, x, output), exact, strict=True):
        assert value.dtype == torch.float32
        assert float((value - wanted).abs().max() / wanted.abs().max()) < 2e-6


def test_float32_timesteps_stay_in_the_table_and_meet_its_rows(schedule):
    rows = torch.arange(len(schedule))
    timestep = FlowAlignment(schedule, "eps").timestep(FlowTime(s=torch.sigmoid(schedule.log_sigma).float()))
    assert (timestep - rows).abs().max() < 1e-3
    assert timestep.min() >= 0 and timestep.max() <= len(schedule) - 1
    assert FlowAlignment(schedule, "eps").timestep(FlowTime(s=torch.tensor([0.0, 1.0, 1.3]))).tolist() == [0, 999, 999]


def test_more_noise_than_a_flow_has_is_read_by_the_noisiest_row(case, generator):
    """A sampler that churns may ask above s = 1, where t is negative: x0 stays close to what row T - 1 says."""
    x, output = torch.randn(2, 3, 7, generator=generator, dtype=torch.float64)
    s = torch.tensor([1.0, 1.2, 1.4], dtype=torch.float64)
    x_dm = x / torch.hypot(s, 1 - s)[:, None]
    x0 = case.alignment.denoised(output, x, FlowTime(s=s))
    same = case.alignment.denoised(output, x_dm, FlowTime(s=torch.ones(3, dtype=torch.float64)))
    assert ((x0 - same).norm(dim=1) < 0.1 * same.norm(dim=1)).all()


def test_tables_are_made_once_for_each_device(sd):
    first, again = (sd.schedule.tables(torch.zeros(2, device=META)) for _ in range(2))
    assert first is again
    assert sd.schedule.tables(torch.zeros(2)) is not first
