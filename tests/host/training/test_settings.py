"""Settings are what they say: densities, learning rates, and what the files say about them."""

import json

import pytest
import torch


def plan_of(part, **given):
    """A plan at the widgets' defaults but for what is given."""
    options = part("training.options.trainer_options")
    own = {one.id: one.default for one in part("training.widgets").training_widgets()}
    return part("training.sockets").TrainingPlan(**{**own, **options.option_defaults(), **given})


@pytest.mark.parametrize("objective", ["diff2flow", "naive_fm"])
def test_auto_is_uniform_for_flows_bit_for_bit(build, train, same, objective):
    auto, uniform = (
        train(build(), objective=objective, density=density, resume="new")[0] for density in ("auto", "uniform")
    )
    assert same(auto, uniform)


def test_auto_is_the_networks_timesteps_for_diffusion(build, train, same):
    loras = {
        density: train(build(), objective="diffusion", density=density, resume="new")[0]
        for density in ("auto", "timestep", "uniform")
    }
    assert same(loras["auto"], loras["timestep"]) and not same(loras["auto"], loras["uniform"])
    assert loras["auto"].facts.training["density"] == "timestep"


def test_the_default_of_diffusion_stays_inside_the_table_and_is_uniform_there(build, host, part):
    """0 of 200,000 draws are outside, where a density that is uniform in t has 9.3 % of them."""
    alignment = host.alignment_of(build())
    outside = {}
    for density in ("auto", "uniform"):
        times = plan_of(part, objective="diffusion", density=density).times()
        t = times.sample(200_000, alignment, torch.Generator().manual_seed(0))
        outside[density] = float(((t < alignment.t_min - 1e-9) | (t > alignment.t_max + 1e-9)).double().mean())
        counts = torch.bincount(alignment.timestep(t).round().long(), minlength=1000)
        assert (counts.max() < 290 and counts.min() > 120) == (density == "auto")
    assert outside == {"auto": 0, "uniform": pytest.approx(0.093, abs=0.003)}


def test_graphs_saved_with_uniform_resume_with_the_new_default(build, train, output):
    """The run records what auto stands for, so that a new node goes on with a run of an old one."""
    train(build(), steps=2, density="uniform")
    train(build(), steps=3, density="auto")
    assert [path.name for path in (output / "diff2flow" / "runs").iterdir()] == ["my_lora"]


@pytest.mark.parametrize(
    ("given", "key", "value"),
    [
        ({"lr_schedule": "cosine_with_restarts"}, "lr_curve", "3 cycles"),
        ({"lr_schedule": "polynomial"}, "lr_curve", "power 2"),
        ({"objective": "naive_fm", "density": "timestep"}, "timesteps", "of the objective"),
    ],
)
def test_runs_of_earlier_versions_that_would_go_on_otherwise_are_told_apart(part, given, key, value):
    assert plan_of(part, **given).config()[key] == value
    for other in ({}, {"lr_schedule": "cosine"}, {"objective": "diffusion"}, {"density": "timestep"}):
        assert not {"lr_curve", "timesteps"} & set(plan_of(part, **other).config())


@pytest.mark.parametrize("kind", ["EPS", "V_PREDICTION"])
@pytest.mark.parametrize("weight", ["min_snr", "soft_min_snr", "debiased", "p2"])
def test_a_published_weight_is_one_loss_for_both_objectives(build, train, kind, weight):
    settings = {"weight": weight, "density": "timestep", "steps": 2}
    ours, native = (
        train(build(kind), objective=objective, run_name=objective, **settings)[1]["loss"]
        for objective in ("diff2flow", "diffusion")
    )
    assert ours == pytest.approx(native, rel=1e-3)
    assert train(build(kind), run_name="plain", **{**settings, "weight": "none"})[1]["loss"] != pytest.approx(ours)


def test_gamma_is_a_setting_of_the_weights_that_have_one(build, train, output):
    """0 is the weight's own; where there is none, runs of earlier versions are not told apart by it."""

    def runs():
        return sorted(path.name for path in (output / "diff2flow" / "runs").iterdir())

    train(build(), steps=1, weight="min_snr")
    train(build(), steps=2, weight="min_snr", weight_gamma=5.0)
    assert runs() == ["my_lora"]
    train(build(), steps=2, weight="min_snr", weight_gamma=1.0)
    assert runs() == ["my_lora", "my_lora_00002"]
    for weight in ("none", "debiased"):
        train(build(), steps=1, run_name=weight, weight=weight)
        train(build(), steps=2, run_name=weight, weight=weight, weight_gamma=3.0)
    assert runs() == ["debiased", "my_lora", "my_lora_00002", "none"]
    settings = json.loads((output / "diff2flow" / "runs" / "none" / "settings.json").read_text("utf-8"))
    assert "weight_gamma" not in settings


@pytest.mark.parametrize("rate", [1e-4, 0.09])
def test_prodigy_at_a_rate_of_other_optimizers_is_refused(build, train, unharmed, rate):
    model = build()
    with unharmed(model), pytest.raises(ValueError, match=rf"learning_rate is {rate:g}, but prodigy.*set it to 1"):
        train(model, optimizer="prodigy", learning_rate=rate)


def test_prodigy_at_1_and_others_at_any_rate_are_not(part):
    plan_of(part, optimizer="prodigy", learning_rate=1.0).check(has_negative=False, has_pairs=False)
    plan_of(part, optimizer="adamw", learning_rate=1e-7).check(has_negative=False, has_pairs=False)


def test_polynomial_works_at_the_least_learning_rate(build, train, output):
    train(build(), learning_rate=1e-7, lr_schedule="polynomial", steps=2, save_every=1)
    assert logged(output) == pytest.approx([1e-7, 1e-7 / 4])


def logged(output, run="my_lora"):
    lines = (output / "diff2flow" / "runs" / run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["learning_rate"] for line in lines]


def test_the_log_has_the_learning_rate_of_each_save(build, train, output):
    train(build(), lr_schedule="linear", steps=4, save_every=1, learning_rate=0.04)
    assert logged(output) == pytest.approx([0.04, 0.03, 0.02, 0.01])


# Settings of a run, none at its default, and what kohya's entries must then be.
EVERYTHING = {
    "learning_rate": 0.002,
    "seed": 11,
    "optimizer": "adafactor",
    "lr_schedule": "cosine",
    "warmup_steps": 1,
    "batch_size": 3,
    "accumulation": 2,
    "checkpointing": True,
    "clip": 0.7,
    "dropout": 0.15,
    "caption_dropout": 0.3,
    "rank": 3,
    "alpha": 1.5,
}
WRITTEN = {
    "ss_learning_rate": "0.002",
    "ss_seed": "11",
    "ss_optimizer": "adafactor",
    "ss_lr_scheduler": "cosine",
    "ss_lr_warmup_steps": "1",
    "ss_total_batch_size": "3",
    "ss_gradient_accumulation_steps": "2",
    "ss_gradient_checkpointing": "True",
    "ss_max_grad_norm": "0.7",
    "ss_network_dropout": "0.15",
    "ss_caption_dropout_rate": "0.3",
    "ss_num_train_images": "5",
    "ss_network_module": "networks.lora",
    "ss_network_dim": "3",
    "ss_network_alpha": "1.5",
    "ss_base_model_version": "Config",  # class of the small model of the tests
    "ss_v2": "False",
    "ss_v_parameterization": "False",
    "ss_steps": "2",
    "ss_training_comment": "Diff2Flow Kit, objective diffusion",
    "ss_mixed_precision": "no",
}


def metadata(path):
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return file.metadata()


def test_every_entry_of_kohyas_metadata_is_what_the_training_was(build, train, conditioning, saved, part):
    train(build(), steps=2, objective="diffusion", negative=conditioning[1], **EVERYTHING)
    found = {key: value for key, value in metadata(saved()[0]).items() if key.startswith("ss_")}
    assert found.pop("ss_output_name") == "my_lora"
    assert found == WRITTEN
    from diff2flow_kit.d2f_data.files.metadata import kohya

    assert set(kohya._SS_NAMES.values()) <= set(found)


@pytest.mark.parametrize(("precision", "kohya"), [("auto", "no"), ("fp32", "no"), ("bf16", "bf16"), ("fp16", "fp16")])
def test_the_precision_in_the_metadata_is_what_was_computed_in(build, train, saved, precision, kohya):
    train(build(), steps=1, precision=precision)
    found = metadata(saved()[0])
    assert found["ss_mixed_precision"] == kohya
    assert json.loads(found["diff2flow.training"])["precision"] == precision
