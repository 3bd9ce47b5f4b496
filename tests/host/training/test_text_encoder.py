"""Training text encoders together with the model."""

import copy
import hashlib
import importlib
import importlib.util
import json
from pathlib import Path

import pytest
import torch

WIDGETS = {"learning_rate": 1e-2, "text_encoder_lr": 1e-2, "steps": 3}
LONG = ", ".join(f"a red cube number {number}" for number in range(20))


@pytest.fixture(scope="module")
def small_clips(comfy):
    spec = importlib.util.spec_from_file_location("small_clips", Path(__file__).with_name("small_clips.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def clip(small_clips):
    return small_clips.make("l")


@pytest.fixture
def sdxl(small_sdxl):
    """For two encoders of width 8."""
    return small_sdxl(8)


@pytest.fixture
def captions(host, part):
    """`captions(clip, *texts, weights=False)` -> CONDITIONINGs as Training Set from Folder makes them."""
    facts = importlib.import_module(part("training.outcome.facts").set_facts.__module__)

    def make(clip, *texts, weights=False, **options):
        known = [{host.TEXT_KEY: facts.SetCaption(text, weights), **options} for text in texts]
        return [
            [[cond, {**own, **more}] for cond, own in host.encode_caption(clip, text, weights)]
            for text, more in zip(texts, known)
        ]

    return make


TEXTS = ("a red cube", "a blue ball", LONG, "smile :), (really:1.3)", "")


@pytest.fixture
def five(captions):
    return lambda clip, **options: captions(clip, *TEXTS, **options)


def mark(clip):
    """All that clones of a CLIP share."""
    digest = hashlib.sha256()
    for name, tensor in sorted(clip.cond_stage_model.state_dict().items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    for name, module in clip.cond_stage_model.named_modules():
        hooks = [len(getattr(module, key)) for key in vars(module) if key.endswith("_hooks")]
        digest.update(repr((name, module.training, hooks, "forward" in vars(module))).encode())
        digest.update(repr([p.requires_grad for p in module.parameters(recurse=False)]).encode())
        for key in ("layer", "layer_idx", "return_projected_pooled", "execution_device"):
            digest.update(repr(vars(module).get(key)).encode())
    digest.update(repr(sorted(map(str, clip.patcher.patches))).encode())
    return digest.hexdigest()


def text_part(lora):
    return {key: value for key, value in lora.items() if key.startswith("lora_te")}


def test_both_learn_and_the_clip_of_the_graph_stays_as_it_is(build, train, clip, five, unharmed):
    model, before = build(), mark(clip)
    positive = five(clip)
    before = mark(clip)
    with unharmed(model):
        lora, losses, *_ = train(model, positive=positive, clip=clip, **{**WIDGETS, "steps": 30})
    assert mark(clip) == before
    texts = text_part(lora)
    layers = {key.split(".")[0] for key in texts}
    assert len(layers) == 3 * 6 and "lora_te_text_model_encoder_layers_0_self_attn_q_proj" in layers
    ups = [value for key, value in texts.items() if "lora_up" in key]
    assert all(value.abs().max() > 0 for value in ups) and all(value.shape[1] == 2 for value in ups)
    assert sum(losses["loss"][-8:]) < sum(losses["loss"][:8])


def test_the_gradient_is_that_of_merged_weights(build, clip, five, host, part):
    """Against finite differences in the weights of the host's own CLIP, whose node encodes the text."""
    network_of = part("training.text.network").TextTrainingNetwork
    positive = five(clip)[3]
    key = "clip_l.transformer.text_model.encoder.layers.1.mlp.fc1.weight"
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    timestep = torch.tensor([300.0])
    with host.training(build()) as plain:
        network = network_of(plain, clip)
        weight = network.encoder.module.get_parameter(key).requires_grad_()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(network(x, timestep, network.condition(positive, (4, 8, 8))).sum(), weight)

        def answer(step):
            moved = copy.copy(clip)
            moved.patcher = clip.patcher.clone()
            moved.patcher.add_patches({key: ("diff", (step * slope.sign(),))})
            ((cond, options),) = host.encode_caption(moved, TEXTS[3], False)
            kwargs = plain.condition([[cond, {**positive[0][1], **options}]], (4, 8, 8))
            return float(plain(x, timestep, kwargs).double().sum())

        measured = (answer(1e-3) - answer(-1e-3)) / 2e-3
    assert float(slope.abs().sum()) == pytest.approx(measured, rel=0.02) and measured > 0.01


@pytest.mark.parametrize("skip", [None, -2])
@pytest.mark.parametrize("weights", [False, True])
def test_without_adapters_texts_are_encoded_as_the_host_does(build, small_clips, clip, five, host, part, skip, weights):
    """Chunks of 75 tokens, weights and clip skip: bit for bit."""
    clip.clip_layer(skip)
    network_of = part("training.text.network").TextTrainingNetwork
    for positive in five(clip, weights=weights):
        with host.training(build()) as plain:
            network = network_of(plain, clip)
            one = network.condition(positive, (4, 8, 8))
            assert {name: value.shape for name, value in one.items()} == {"c_crossattn": positive[0][0].shape}
            assert torch.equal(network.encoded(one)["c_crossattn"], positive[0][0])


# Names of a CLIP's encoders, and of those whose last layer acts: clip skip leaves out that of the others.
KINDS = [
    ("l", {"lora_te_"}, {"lora_te_"}),
    ("h", {"lora_te_"}, set()),
    ("lg", {"lora_te1_", "lora_te2_"}, {"lora_te2_"}),
]


@pytest.mark.parametrize(("kind", "names", "whole"), KINDS)
def test_stock_load_lora_gives_the_conditioning_of_the_training(
    build, sdxl, train, small_clips, captions, saved, host, kind, names, whole
):
    """Names of kohya's keys, and the same tensors from the file through the host's own loader."""
    import comfy.sd
    import comfy.utils

    clip = small_clips.make(kind, 8 if kind == "lg" else 16)
    model = sdxl if kind == "lg" else build()
    train(model, positive=captions(clip, *TEXTS), clip=clip, adapter="lora", **WIDGETS)
    tensors = comfy.utils.load_torch_file(str(saved()[0]))
    prefixes = {key.partition("text_model")[0] for key in text_part(tensors)}
    assert prefixes == names
    last = {key.split(".")[0] for key in tensors if "encoder_layers_2_" in key}
    assert {name.partition("text_model")[0] for name in last} == {"l": {"lora_te_"}, "h": set(), "lg": {"lora_te2_"}}[
        kind
    ]
    _, loaded = comfy.sd.load_lora_for_models(model, clip, tensors, 1.0, 1.0)
    before, after = (host.encode_caption(one, LONG)[0][0] for one in (clip, loaded))
    assert (after - before).abs().max() > 0.01
    assert len(loaded.patcher.patches) == len({key.split(".")[0] for key in text_part(tensors)})


def test_the_loader_of_the_pack_loads_it_onto_the_clip(build, train, clip, five, saved, node, host, output):
    import folder_paths

    folder_paths.add_model_folder_path("loras", str(output / "loras"))
    lora, *_ = train(build(), positive=five(clip), clip=clip, **WIDGETS)
    loader = node("D2FLoadLora")
    _, info, _, encoders = loader.execute(build(), "none", 1.0, lora, clip).result
    exact, plain = (host.encode_caption(one, LONG)[0][0] for one in (encoders, clip))
    assert (exact - plain).abs().max() > 0.01 and "left out" not in info
    _, info, _, none = loader.execute(build(), "none", 1.0, lora).result
    assert none is None and "text encoders are left out; connect 'clip'" in info


@pytest.mark.parametrize("kind", ["lora", "dora", "oft"])
def test_what_is_loaded_is_what_was_trained(build, train, clip, five, host, part, kind):
    """Adapters on our copy of the encoders against the LoRA merged into the host's CLIP."""
    positive = five(clip)
    lora, *_ = train(build(), positive=positive, clip=clip, adapter=kind, **WIDGETS)
    _, loaded = host.apply_to_both(build(), clip, lora, 1.0)
    from diff2flow_kit.d2f_core import attached

    with host.training(build()) as plain:
        network = part("training.text.network").TextTrainingNetwork(plain, clip)
        new = {path: None for path in host.text_names(clip) if ".encoder." in path}
        made = host.text_adapters_from(clip, network.encoder.module, lora, new, kind, 0.0)
        for one, text in zip(positive, TEXTS):
            with attached(network.encoder.module, made), torch.enable_grad():
                ours = network.encoded(network.condition(one, (4, 8, 8)))["c_crossattn"].detach()
            torch.testing.assert_close(ours, host.encode_caption(loaded, text, False)[0][0], atol=2e-4, rtol=1e-4)


SESSIONS = {"ema": 0.5, "dropout": 0.1, "caption_dropout": 0.3, "accumulation": 2, "lr_schedule": "constant"}


def test_k_steps_and_n_minus_k_are_n_bit_for_bit(build, train, clip, five, captions, same):
    given = {"positive": five(clip), "negative": captions(clip, "")[0], "clip": clip, **WIDGETS, **SESSIONS}
    train(build(), **{**given, "steps": 2, "run_name": "two"})
    resumed, whole = (train(build(), **{**given, "steps": 5, "run_name": name})[0] for name in ("two", "one"))
    assert same(resumed, whole) and text_part(whole)


def test_without_clip_nothing_is_otherwise(build, train, clip, five, same, monkeypatch):
    """Bit for bit what a set that does not know its texts gives, and the encoder's code is never entered."""
    positive = five(clip)
    bare = [[[cond, {k: v for k, v in own.items() if k != "d2f_text"}]] for ((cond, own),) in positive]
    one, other = (train(build(), positive=given, run_name=name)[0] for name, given in (("a", positive), ("b", bare)))
    assert same(one, other) and not text_part(one)


def test_the_clip_is_a_setting_of_the_run(build, train, clip, small_clips, five, output):
    runs = output / "diff2flow" / "runs"
    train(build(), positive=five(clip), **WIDGETS)
    train(build(), positive=five(clip), clip=clip, **WIDGETS)
    train(build(), positive=five(clip), clip=clip, **{**WIDGETS, "steps": 4})
    train(build(), positive=five(clip), clip=clip, **{**WIDGETS, "text_encoder_rank": 1})
    assert sorted(path.name for path in runs.iterdir()) == ["my_lora", "my_lora_00002", "my_lora_00003"]


def test_rank_and_rate_are_its_own_and_said_in_the_file(build, train, clip, five, saved, shown):
    from safetensors import safe_open

    widgets = {"learning_rate": 1e-2, "text_encoder_lr": 1e-3, "text_encoder_rank": 4, "steps": 1, "clip": clip}
    settings = {**widgets, "optimizer": "adamw"}
    lora, *_ = train(build(), positive=five(clip), **settings)
    ups = {key: value for key, value in lora.items() if "lora_up" in key}
    largest = {
        text: max(float(v.abs().max()) for k, v in ups.items() if k.startswith("lora_te") == text)
        for text in (False, True)
    }
    assert largest[False] / largest[True] == pytest.approx(10, rel=0.02)  # AdamW's first step is its rate
    assert {v.shape[1] for k, v in ups.items() if k.startswith("lora_te")} == {4}
    assert "trains 18 layers of the text encoders" in shown[-1]
    with safe_open(saved()[0], "pt") as file:
        found = file.metadata()
    assert (found["ss_unet_lr"], found["ss_text_encoder_lr"]) == ("0.01", "0.001")
    assert json.loads(found["diff2flow.training"])["text_encoder_rank"] == 4


def test_it_goes_on_from_a_lora_with_text_layers(build, train, clip, five, same, shown):
    given = {"positive": five(clip), "clip": clip, **WIDGETS}
    lora, *_ = train(build(), **given)
    again, *_ = train(
        build(), **{**given, "learning_rate": 1e-7, "text_encoder_lr": 1e-8}, start_lora=lora, run_name="on"
    )
    for key, value in text_part(lora).items():
        torch.testing.assert_close(again[key], value, atol=1e-6, rtol=1e-5)
    plain, *_ = train(build(), positive=five(clip), start_lora=lora, run_name="plain")
    assert not text_part(plain) and "without its layers of the text encoders (connect 'clip'" in shown[-1]


def test_an_error_leaves_the_clip_as_it_is(build, train, clip, five, around_network, unharmed):
    positive, model = five(clip), build()
    before, calls = mark(clip), []

    def fail(call, network, x):
        calls.append(1)
        if len(calls) > 2:
            raise RuntimeError("out of luck")
        return call()

    around_network(fail)
    with pytest.raises(RuntimeError, match="out of luck"):
        train(model, positive=positive, clip=clip, **WIDGETS)
    assert mark(clip) == before
    assert torch.equal(five(clip)[2][0][0], positive[2][0][0])


def test_validation_and_previews_see_the_encoders_in_training(
    build, train, clip, five, latents, captions, part, monkeypatch
):
    """The UNet barely moves here, so what changes is the text; dropped captions and guidance's are encoded as well."""
    drawn, preview = [], part("training.preview").Preview
    draw = preview.draw
    monkeypatch.setattr(preview, "draw", lambda self, adapters: drawn.append(self.velocity) or draw(self, adapters))
    seen = []
    network = part("training.text.network").TextTrainingNetwork
    encoded = network.encoded
    monkeypatch.setattr(network, "encoded", lambda self, one: seen.append(encoded(self, one)) or seen[-1])
    given = {"positive": five(clip), "clip": clip, "validation_latents": latents, "validate_every": 1, "steps": 4}
    given |= {"learning_rate": 1e-7, "preview_every": 4, "preview_cfg": 2.0, "negative": captions(clip, "")[0]}
    train(build(), **given, text_encoder_lr=0.05)
    assert len(drawn) == 1
    last = seen[-2:]  # of the preview's last call: the captions of its items, and those of the empty prompt
    negative = captions(clip, "")[0][0][0]
    assert all((one["c_crossattn"] - negative).abs().max() > 0.01 for one in last)


def test_what_cannot_be_trained_is_refused_by_name(build, train, clip, five, captions, conditioning, unharmed):
    class T5(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.t5xxl = torch.nn.Linear(2, 2)

    other = copy.copy(clip)
    other.cond_stage_model = T5()
    model = build()
    with unharmed(model):
        with pytest.raises(ValueError, match=r"is T5 with t5xxl; only the text encoders of SD1\.5, SD2\.1 and SDXL"):
            train(model, positive=five(clip), clip=other)
        with pytest.raises(ValueError, match="'positive' does not know its text; take it from 'Training Set from Fol"):
            train(model, positive=conditioning[0], clip=clip)
        with pytest.raises(ValueError, match="'negative' does not know its text"):
            train(model, positive=five(clip), negative=conditioning[1], caption_dropout=0.5, clip=clip)
        with pytest.raises(ValueError, match="prodigy finds one rate for all"):
            train(model, positive=five(clip), clip=clip, optimizer="prodigy", learning_rate=1.0)


def test_hooks_on_the_clip_are_refused(build, train, clip, five):
    hooked = copy.copy(clip)
    hooked.apply_hooks_to_conds = object()
    with pytest.raises(ValueError, match=r"has hooks .Set CLIP Hooks., which act on sampling only"):
        train(build(), positive=five(clip), clip=hooked)


@pytest.mark.parametrize("loaded_before", [False, True])
def test_a_clip_with_a_lora_is_trained_as_it_is(build, clip, captions, host, part, loaded_before):
    """Whether the host has put the patches on the weights by then or not."""
    key = "clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
    shape = clip.cond_stage_model.get_parameter(key).shape
    patched = clip.clone()
    diff = torch.randn(shape, generator=torch.Generator().manual_seed(8))
    patched.patcher.add_patches({key: ("diff", (diff,))})
    if loaded_before:
        host.encode_caption(patched, LONG)
    network_of = part("training.text.network").TextTrainingNetwork
    with host.training(build()) as plain:
        network = network_of(plain, patched)
        ours = network.encoded(network.condition(captions(clip, LONG)[0], (4, 8, 8)))["c_crossattn"]
    exact, bare = (host.encode_caption(one, LONG)[0][0] for one in (patched, clip))
    torch.testing.assert_close(ours, exact, atol=1e-5, rtol=1e-5)
    assert (exact - bare).abs().max() > 0.1


def test_samples_are_drawn_with_the_encoders_as_they_are(build, train, clip, five, part, host, monkeypatch):
    from diff2flow_kit.d2f_data.training.sample_prompts import SamplePrompt, parse_prompts

    samples = importlib.import_module(part("training.samples.sample_set").__name__)
    vae = type("Vae", (), {"latent_channels": 4, "spacial_compression_encode": lambda self: 8})()
    vae.decode = lambda latents: torch.zeros(1, 64, 64, 3)
    prompts = parse_prompts("a green cone", SamplePrompt("", "", 64, 64, 2, 3.0))
    seen, network = [], part("training.text.network").TextTrainingNetwork
    encoded = network.encoded

    def watch(self, one):
        kwargs = encoded(self, one)
        if one.entry[1][host.TEXT_KEY].text == "a green cone":
            seen.append(kwargs["c_crossattn"].detach())
        return kwargs

    monkeypatch.setattr(network, "encoded", watch)
    drawn = samples.encode_set(prompts, clip, vae)
    train(build(), positive=five(clip), clip=clip, samples=[drawn], **{**WIDGETS, "text_encoder_lr": 0.05})
    frozen = host.encode_caption(clip, "a green cone")[0][0]
    assert len(seen) == 4  # two steps of the untrained model, two of the LoRA
    assert torch.equal(seen[0], frozen) and (seen[-1] - frozen).abs().max() > 0.01


def test_from_a_folder_to_the_file(node, train, saved, tmp_path, pack, fingerprint):
    """The demo checkpoint on two pictures; what Training Set from Folder hands on is what the trainer needs."""
    from PIL import Image

    from diff2flow_kit.demo.networks import load_demo_checkpoint

    model, clip, vae = load_demo_checkpoint()
    for name in ("one", "two"):
        Image.new("RGB", (96, 96), "red").save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(f"sks, a red cube, {name}", encoding="utf-8")
    dataset = node("D2FFolderDataset")
    widgets = {one.id: one.default for one in dataset.define_schema().inputs if hasattr(one, "default")}
    widgets = {**widgets, "folder": str(tmp_path), "resolution": 96, "bucket_step": 32}
    latents, positive, negative, *_ = dataset.execute(
        clip, vae, **{k: v for k, v in widgets.items() if v is not None}
    ).result
    before = mark(clip)
    given = {"latents": latents, "positive": positive, "negative": negative, "caption_dropout": 0.5, "clip": clip}
    lora, *_ = train(model, **given, **WIDGETS)
    assert mark(clip) == before and text_part(lora)
    from safetensors import safe_open

    with safe_open(saved()[0], "pt") as file:
        assert file.metadata()["modelspec.trigger_phrase"] == "sks, a red cube"


@pytest.mark.parametrize(("kind", "settings"), [("l", {"dropout": 0.3}), ("h", {"adapter": "oft"}), ("lg", {})])
def test_checkpointing_gives_the_same_lora_bit_for_bit(build, sdxl, train, small_clips, captions, same, kind, settings):
    clip, loras = small_clips.make(kind, 8 if kind == "lg" else 16), []
    given = {"positive": captions(clip, *TEXTS, weights=True), "clip": clip, **WIDGETS, **settings}
    before = mark(clip)
    for on in (False, True):
        model = sdxl if kind == "lg" else build()
        loras.append(train(model, checkpointing=on, run_name=str(on), **given)[0])
    assert same(*loras) and text_part(loras[0])
    assert mark(clip) == before


def test_checkpointing_keeps_less_of_the_encoders(build, clip, five, host, part):
    """Values that autograd saves while a text is encoded, without those of the weights."""
    network_of, kept, found = part("training.text.network").TextTrainingNetwork, {}, {}
    from diff2flow_kit.d2f_core import AdapterSettings, attached, make_adapters

    for recompute in (False, True):
        with host.training(build()) as plain:
            network = network_of(plain, clip, recompute)
            module, sizes = network.encoder.module, {}
            settings, generator = AdapterSettings("linear:*.encoder.layers.*", 2), torch.Generator().manual_seed(0)
            adapters = make_adapters(module, settings, generator)
            own = {p.untyped_storage().data_ptr() for one in (module, *adapters.values()) for p in one.parameters()}

            def pack(tensor, sizes=sizes):
                sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
                return tensor

            with (
                attached(module, adapters),
                torch.enable_grad(),
                torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
            ):
                found[recompute] = network.encoded(network.condition(five(clip)[2], (4, 8, 8)))["c_crossattn"]
            kept[recompute] = sum(size for place, size in sizes.items() if place not in own)
    assert torch.equal(*found.values())
    assert kept[True] < 0.25 * kept[False], kept
