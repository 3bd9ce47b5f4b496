"""The controls beside our objectives, and the choice of the network that a benchmark runs on."""

from argparse import Namespace
from types import SimpleNamespace

import pytest
import torch

from d2f_core import FlowAlignment, NoiseSchedule, TimeDensity

pytestmark = pytest.mark.host
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2


def test_the_control_of_other_losses_is_our_loss_at_integer_timesteps_only(shared):
    control = shared("lora_runs").INTEGER
    assert control["objective"] == "diff2flow"
    alignment = FlowAlignment(NoiseSchedule.from_betas(BETAS), "eps")
    t = TimeDensity(control["density"]).sample(4096, alignment, torch.Generator().manual_seed(0))
    steps = alignment.timestep(t)
    assert float((steps - steps.round()).abs().max()) < 1e-6 and float(t.min()) >= alignment.t_min - 1e-12
    ours = TimeDensity("uniform").sample(4096, alignment, torch.Generator().manual_seed(0))
    assert 0.04 < float((ours < alignment.t_min).double().mean()) < 0.09  # t_min is 0.064


@pytest.mark.parametrize("prediction, kind", [("eps", "EPS"), ("v", "V_PREDICTION")])
def test_each_prediction_type_is_loaded_as_what_it_is(shared, prediction, kind):
    config = shared("checkpoints").MODELS[prediction].config
    assert config(config.unet_config).model_type({}, "").name == kind


def test_a_twin_that_nobody_trained_is_refused_with_the_command_that_makes_it(shared, tmp_path):
    with pytest.raises(ValueError, match=r"train_twin --prediction v .*or take --model eps"):
        shared("checkpoints").load_checkpoint("v", tmp_path)


def test_results_of_the_twin_have_a_name_of_their_own(shared):
    named = shared("checkpoints").named
    assert [named("depth", Namespace(model=model)) for model in ("eps", "v")] == ["depth", "depth_v"]


def test_finished_parts_of_other_weights_are_made_again(shared, tmp_path, monkeypatch):
    bench, made = shared("checkpoints").__package__, []
    package = __import__(bench)

    def make():
        made.append(1)
        return {"rows": []}

    for hashes in ({"unet": "a"}, {"unet": "a"}, {"unet": "b"}):
        monkeypatch.setattr(package, "demo_weights", lambda hashes=hashes: hashes)
        package.kept(tmp_path, "part", {}, make)
    assert len(made) == 2


def test_a_trainer_is_not_given_inputs_that_it_does_not_have(shared):
    runs = shared("lora_runs").LoraRuns(SimpleNamespace(), torch.zeros(1, 4, 2, 2), torch.zeros(1, 3, 8), 1)
    with pytest.raises(ValueError, match="has no option stride"):
        runs.ours("diff2flow", steps=1, stride=2)
