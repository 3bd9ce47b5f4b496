"""What the trainer node learns, under its settings."""

import math

import pytest
import torch


@pytest.mark.parametrize("kind", ["EPS", "V_PREDICTION"])
@pytest.mark.parametrize("converted", [False, True])
def test_it_trains_converted_and_unconverted_models(build, host, train, unharmed, kind, converted):
    model = build(kind)
    model = host.convert(model) if converted else model
    with unharmed(model):
        lora, loss_map, steps, plot, *_ = train(model, steps=4)
    assert steps == 4 and len(loss_map["loss"]) == 4 and plot.shape == (1, 480, 800, 3)
    assert lora.facts.prediction == {"EPS": "eps", "V_PREDICTION": "v"}[kind]
    assert all(bool(t.any()) for key, t in lora.items() if key.endswith("lora_up.weight"))


def test_a_converted_model_gives_the_lora_of_the_original(build, host, train, same):
    model = build("EPS")
    assert same(train(model)[0], train(host.convert(model), run_name="converted")[0])


@pytest.mark.parametrize("objective", ["diff2flow", "naive_fm", "diffusion"])
def test_the_loss_falls(build, train, latents, objective):
    settings = {"steps": 30, "weight": "eps", "targets": "all", "density": "uniform"}
    losses = train(build("EPS"), latents[:1], objective=objective, **settings)[1]
    assert sum(losses["loss"][-10:]) < 0.9 * sum(losses["loss"][:10])


@pytest.fixture
def first_losses(build, train):
    """`first_losses(a, b)` -> loss of the first step under each of the settings."""
    count = iter(range(100))
    return lambda *settings: [train(build(), steps=1, run_name=f"r{next(count)}", **s)[1]["loss"][0] for s in settings]


def test_objective_density_weight_and_loss_change_what_is_learned(first_losses):
    settings = [
        {},
        {"objective": "naive_fm"},
        {"density": "logit_normal"},
        {"density": "logit_normal", "density_mean": 1.0},
        {"density": "logit_normal", "density_std": 0.5},
        {"density": "u_shaped"},
        {"density": "timestep"},
        {"weight": "eps"},
        {"weight": "x0"},
        {"weight": "v"},
        {"loss": "huber"},
        {"loss": "huber", "huber_delta": 0.5},
    ]
    losses = first_losses(*settings)
    assert all(math.isfinite(loss) for loss in losses)
    assert len({f"{loss:.5g}" for loss in losses}) == len(settings)


def test_a_diff2flow_loss_under_the_eps_weight_is_the_diffusion_loss(first_losses):
    """At the same flow times: each density of one with the same of the other, and timestep is the default of one."""
    flow, diffusion, at_timesteps, default = first_losses(
        {"weight": "eps", "density": "uniform"},
        {"objective": "diffusion", "density": "uniform"},
        {"weight": "eps", "density": "timestep"},
        {"objective": "diffusion"},
    )
    assert flow == pytest.approx(diffusion, rel=1e-4)
    assert at_timesteps == pytest.approx(default, rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "suffixes"),
    [
        ({"adapter": "lora"}, {"lora_down.weight", "lora_up.weight", "alpha"}),
        ({"adapter": "lokr"}, {"lokr_w1", "lokr_w2", "alpha"}),
        ({"adapter": "loha"}, {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "alpha"}),
        ({"adapter": "dora"}, {"lora_down.weight", "lora_up.weight", "dora_scale", "alpha"}),
        ({"adapter": "oft"}, {"oft_blocks", "alpha"}),
    ],
)
def test_kinds_of_adapters(build, train, unharmed, settings, suffixes):
    model = build()
    with unharmed(model):
        lora = train(model, targets="attention_and_conv", **settings)[0]
    found = {key.split(".", 1)[1] for key in lora}
    assert suffixes <= found or {name.rstrip("_ab") for name in found} >= suffixes - {"alpha"}
    assert lora.facts.kind == settings["adapter"]


def layers(lora):
    return {key.split(".")[0] for key in lora}


def test_presets_and_patterns_of_targets(build, train):
    model = build()
    chosen = {
        name: layers(train(model, steps=1, run_name=name, targets=name)[0])
        for name in ("attention", "attention_and_conv", "all")
    }
    own = layers(train(model, steps=1, run_name="own", target_pattern="*.attn2.to_k, conv:input_blocks.0.*")[0])
    assert all("attn" in name for name in chosen["attention"])
    assert any("conv" in name for name in chosen["attention_and_conv"])
    assert any("ff" in name for name in chosen["all"]) and chosen["attention"] < chosen["all"]
    assert all("attn2_to_k" in name or name == "lora_unet_conv_in" for name in own) and "lora_unet_conv_in" in own


def test_a_pattern_that_names_no_layer_is_named(build, train, unharmed):
    model = build()
    with unharmed(model), pytest.raises(ValueError, match=r"'\*\.attn9\.\*' names no layer; presets are"):
        train(model, target_pattern="*.attn9.*")


def test_full_ends_are_full_differences(build, train):
    lora = train(build(), full_ends=True)[0]
    ends = {key.split(".")[0] for key in lora if key.endswith(".diff")}
    assert ends == {"lora_unet_conv_in", "lora_unet_conv_out"}
    assert lora["lora_unet_conv_in.diff"].shape == (32, 4, 3, 3) and lora["lora_unet_conv_in.diff"].any()
    assert lora["lora_unet_conv_out.diff_b"].shape == (4,) and lora["lora_unet_conv_out.diff_b"].any()


def test_rank_alpha_and_ratio(build, train):
    model = build()
    plain = train(model, steps=1, rank=3, alpha=1.5)[0]
    ratio = train(model, steps=1, run_name="ratio", rank_ratio=0.2)[0]
    downs = {key: len(t) for key, t in ratio.items() if key.endswith("lora_down.weight")}
    assert {len(t) for key, t in plain.items() if key.endswith("lora_down.weight")} == {3}
    assert {float(t) for key, t in plain.items() if key.endswith("alpha")} == {1.5}
    assert set(downs.values()) == {7, 13}  # ceil(0.2 * 32), ceil(0.2 * 64)
    assert all(float(ratio[key.replace("lora_down.weight", "alpha")]) == rank for key, rank in downs.items())
    assert (ratio.facts.rank, plain.facts.rank, plain.facts.alpha) == (0, 3, 1.5)


def test_convolutions_stay_4d(build, train):
    lora = train(build(), steps=1, target_pattern="conv:*")[0]
    downs = [t for key, t in lora.items() if key.endswith("lora_down.weight")]
    assert all(t.ndim == 4 for t in downs) and any(t.shape[-2:] == (3, 3) for t in downs)


def test_alpha_is_not_trained(build, train):
    for adapter in ("lora", "lokr", "loha", "dora", "oft"):
        lora = train(build(), steps=5, learning_rate=0.5, clip=0.0, adapter=adapter, alpha=2.0, run_name=adapter)[0]
        assert {float(t) for key, t in lora.items() if key.endswith("alpha")} == {2.0}


def test_norms_and_biases_are_left_alone(build, train):
    lora = train(build(), steps=1, targets="all")[0]
    assert not [key for key in lora if "norm" in key or key.endswith(("diff_b", "w_norm", "b_norm"))]


@pytest.mark.parametrize(
    "settings", [{"dropout": 0.3}, {"ema": 0.9}, {"accumulation": 2}, {"clip": 1e-3}, {"weight_decay": 0.5}]
)
def test_each_setting_matters(build, train, same, settings):
    model = build()
    plain, changed = train(model, steps=4)[0], train(model, steps=4, run_name="other", **settings)[0]
    assert not same(plain, changed)


def test_an_ema_of_slow_decay_lags_behind(build, train):
    def size(lora):
        return sum(float(t.norm()) for key, t in lora.items() if key.endswith("lora_up.weight"))

    model = build()
    now, lagging = (train(model, steps=6, ema=ema, run_name=f"ema{ema}")[0] for ema in (0.0, 0.99))
    assert size(lagging) < 0.5 * size(now)


def test_the_seed_decides(build, train, same):
    model = build()
    settings = {"dropout": 0.2, "caption_dropout": 0.3, "negative": [[[torch.zeros(1, 7, 16), {}]]]}
    loras = [train(model, seed=seed, run_name=name, **settings)[0] for seed, name in ((1, "a"), (1, "b"), (2, "c"))]
    assert same(loras[0], loras[1]) and not same(loras[0], loras[2])


def test_the_largest_seed(build, train):
    train(build(), steps=1, seed=0xFFFFFFFFFFFFFFFF)
