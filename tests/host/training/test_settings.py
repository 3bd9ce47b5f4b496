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
    "ss_max_train_steps": "2",
    "ss_num_batches_per_epoch": "2",
    "ss_num_epochs": "2",
    "ss_epoch": "2",
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


@pytest.mark.parametrize("kind", ["EPS", "V_PREDICTION"])
def test_a_range_of_times_is_all_that_the_network_is_asked_about(build, train, shown, kind):
    asked, model = [], build(kind)

    def watch(function, given):
        asked.extend(given["timestep"].tolist())
        return function(given["input"], given["timestep"], **given["c"])

    model.set_model_unet_function_wrapper(watch)
    train(model, steps=6, t_low=0.2, t_high=0.3)
    sigmas = asked[-10:]  # of two epochs of five items; before them, the host's own try of the wrapper
    assert min(sigmas) >= 0.999 * 0.7 / 0.3 and max(sigmas) <= 1.001 * 0.8 / 0.2
    assert "; trains t from 0.2 to 0.3, timesteps 606 to 744" in shown[-1]


def test_a_range_is_a_setting_of_the_run_and_none_is_not(build, train, output, part):
    train(build(), steps=2)
    train(build(), steps=3, t_low=0.0, t_high=1.0)
    train(build(), steps=3, t_low=0.1)
    assert sorted(path.name for path in (output / "diff2flow" / "runs").iterdir()) == ["my_lora", "my_lora_00002"]
    assert "t_low" not in plan_of(part).config() and plan_of(part, t_high=0.5).config()["t_high"] == 0.5


def test_a_range_is_for_densities_not_for_single_times(build, train):
    with pytest.raises(ValueError, match="few_steps is about single ones; set them to 0 and 1"):
        train(build(), density="few_steps", t_low=0.1)


@pytest.mark.parametrize(("batch_size", "accumulation", "epochs", "steps"), [(2, 1, 2, 6), (2, 2, 3, 5), (8, 1, 4, 4)])
def test_a_length_in_epochs(build, train, saved, shown, batch_size, accumulation, epochs, steps):
    """Five items: 3 batches of 2, or one of all. The last step may reach into the next epoch."""
    settings = {"batch_size": batch_size, "accumulation": accumulation, "lr_schedule": "linear"}
    *_, done, _, _, _ = train(build(), epochs=epochs, steps=1, **settings)
    assert done == steps and f"; {epochs} epochs are {steps} steps" in shown[-1]
    found = metadata(saved()[0])
    batches = -(-5 // batch_size)
    assert found["ss_num_batches_per_epoch"] == str(batches) and found["ss_max_train_steps"] == str(steps)
    assert found["ss_num_epochs"] == found["ss_epoch"] == str(-(-steps * accumulation // batches))


def test_more_epochs_go_on_with_the_run_bit_for_bit(build, train, same):
    train(build(), epochs=1, run_name="two")
    resumed, once = (train(build(), epochs=2, run_name=name)[0] for name in ("two", "one"))
    assert same(resumed, once)


def test_the_epoch_in_a_file_is_that_of_its_step(build, train, saved):
    train(build(), epochs=3, save_every=4)
    assert [metadata(path)["ss_epoch"] for path in saved()] == ["2", "3", "3"]


RULES = "*.attn1.* rank=1 alpha=4\n*.attn2.* rate=0.25"


def test_layer_rules_set_rank_alpha_and_rate(build, train, saved):
    lora, *_ = train(build(), steps=1, layer_rules=RULES, optimizer="adamw", learning_rate=0.01)
    plain, *_ = train(build(), steps=1, run_name="plain", optimizer="adamw", learning_rate=0.01)
    for key, up in lora.items():
        if key.endswith("lora_up.weight"):
            name = key.removesuffix(".lora_up.weight")
            first = "attn1" in name
            assert up.shape[1] == (1 if first else 2) and float(lora[f"{name}.alpha"]) == (4 if first else 2)
            if not first:  # the first step of AdamW moves every weight by its rate
                assert float(up.abs().max() / plain[key].abs().max()) == pytest.approx(0.25, rel=0.01)
    assert metadata(saved("my_lora*")[0])["ss_network_dim"] == "Dynamic"


def test_layer_rules_resume_bit_for_bit_and_are_a_setting_of_the_run(build, train, same, output):
    settings = {"layer_rules": RULES, "lr_schedule": "cosine", "ema": 0.5}
    train(build(), steps=4, run_name="one", **settings)
    once = train(build(), steps=4, run_name="one", **settings)[0]
    half = {"layer_rules": RULES, "ema": 0.5}
    train(build(), steps=2, run_name="two", **half)
    resumed, whole = (train(build(), steps=4, run_name=name, **half)[0] for name in ("two", "three"))
    assert same(resumed, whole) and not same(once, whole)
    train(build(), steps=4, run_name="two")
    assert (output / "diff2flow" / "runs" / "two_00002").is_dir()


def test_prodigy_and_rates_of_layers_do_not_go_together(build, train):
    with pytest.raises(ValueError, match="prodigy finds one rate for all; give no 'rate' in layer_rules"):
        train(build(), optimizer="prodigy", learning_rate=1.0, layer_rules=RULES)


def test_a_pattern_that_names_nothing_is_named_by_the_node(build, train, unharmed):
    model = build()
    with unharmed(model), pytest.raises(ValueError, match=r"named by \*\.attn3\.\*; patterns match module paths such"):
        train(model, layer_rules="*.attn3.* rank=2")
