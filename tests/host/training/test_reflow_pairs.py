"""Generate Reflow Pairs and Load Reflow Pairs: what the pairs are, how a run ends, what is refused."""

from types import SimpleNamespace

import pytest
import torch


class Clip:
    """Encodes a prompt as its length."""

    def __init__(self):
        self.seen = []

    def tokenize(self, text):
        return text

    def encode_from_tokens_scheduled(self, text, show_pbar=True):
        self.seen.append(text)
        return [[torch.full((1, 7, 16), len(text) / 10), {}]]


@pytest.fixture
def generate(node, output):
    """`generate(model, prompts=..., steps=..., ...)` -> pairs, report, preview of the node."""
    generator = node("D2FReflowPairs")
    widgets = {one.id: one.default for one in generator.define_schema().inputs if hasattr(one, "default")}
    small = {"width": 64, "height": 48, "count": 7, "steps": 3, "batch_size": 3, "cfg": 1.0, "shard_size": 4}

    def run(model, **given):
        links = {name: given.pop(name) for name in ("clip", "positive", "negative", "vae") if name in given}
        generator.hidden = SimpleNamespace(unique_id="7")
        wrapped = {name: [value] for name, value in {**widgets, **small, "storage": "fp32", **given}.items()}
        wrapped = {name: value for name, value in wrapped.items() if value != [None]}
        return generator.execute([model], **wrapped, **{name: [value] for name, value in links.items()}).result

    return run


@pytest.fixture
def load(node, output):
    return lambda name: node("D2FLoadPairs").execute(name).result


@pytest.fixture
def cancel_after(comfy, monkeypatch):
    """`cancel_after(calls)`: the user presses cancel at that call of the network."""
    import comfy.model_base
    import comfy.model_management

    cls = comfy.model_base.BaseModel
    original = cls.apply_model

    def install(calls):
        count = iter(range(calls))

        def replaced(self, *args, **kwargs):
            if next(count, None) is None:
                raise comfy.model_management.InterruptProcessingException
            return original(self, *args, **kwargs)

        monkeypatch.setattr(cls, "apply_model", replaced)

    yield install
    monkeypatch.undo()


@pytest.mark.parametrize(("solver", "cfg"), [("euler", 1.0), ("euler", 3.0), ("midpoint", 3.0)])
@pytest.mark.parametrize("kind", ["EPS", "V_PREDICTION"])
def test_pairs_are_what_the_sampler_makes_of_their_noise(
    generate, build, host, part, conditioning, monkeypatch, kind, solver, cfg
):
    """The stock CFG guider over the converted model from pure noise, on the same grid, is the teacher."""
    import comfy.sample

    model = build(kind)
    positive, negative = conditioning
    pairs, report, _ = generate(model, positive=positive, negative=negative, cfg=cfg, solver=solver)
    read = pairs.read(range(7))
    monkeypatch.setattr(comfy.sample, "prepare_noise", lambda latent, seed, inds=None: read.eps)
    converted = host.convert(model, "noise")
    levels = part("sampling.sigmas").flow_sigmas(converted, {"grid": "uniform"}, 3)
    sampler = host.make_sampler(part("sampling.ode").OdeSampler(solver))
    empty = {"samples": torch.zeros(7, 4, 6, 8)}
    sampled = host.sample(converted, empty, positive, negative, cfg, sampler, levels, 0)["samples"]
    torch.testing.assert_close(model.model.process_latent_out(read.x0), sampled, rtol=1e-3, atol=1e-3)
    assert pairs.shape == (4, 6, 8) and float(read.x0.std()) > 0.1
    calls = 3 * (1 if solver == "euler" else 2) * (1 if cfg == 1 else 2)
    assert f"{solver} 3 steps ({calls} network evaluations per pair), cfg {cfg:g}" in report
    assert "model space of SD15 (scale factor 0.18215)" in report


def test_a_converted_model_makes_the_same_pairs(generate, build, host, conditioning):
    model = build()
    plain = generate(model, positive=conditioning[0], name="plain")[0]
    converted = generate(host.convert(model, "t_min"), positive=conditioning[0], name="converted")[0]
    assert torch.equal(plain.read([1, 5]).x0, converted.read([1, 5]).x0)


def test_the_batch_changes_nothing(generate, build, conditioning):
    model = build()
    one, many = (
        generate(model, positive=conditioning[0], batch_size=size, name=f"b{size}")[0].read(range(7)) for size in (1, 7)
    )
    assert torch.equal(one.eps, many.eps)
    # To the rounding of float32, which differs between processors: 2e-7 to 5e-7 of the whole.
    assert float((one.x0 - many.x0).norm() / many.x0.norm()) < 2e-6


def test_prompts_are_taken_in_turn(generate, build, output):
    clip = Clip()
    (output.parent / "more.txt").write_text("  four words of text \n\n")
    given = {"clip": clip, "prompt_file": str(output.parent / "more.txt")}
    pairs, report, _ = generate(build(), prompts="a\n\n  bb  \n", **given)
    assert clip.seen == ["a", "bb", "four words of text"] and pairs.prompts == tuple(clip.seen)
    conditions = pairs.conditions(pairs.read([0, 1, 5]).prompts)
    assert [float(one["c_crossattn"].mean()) for one in conditions] == pytest.approx([0.1, 0.2, 1.8])
    assert report.splitlines()[-3:] == ["  a", "  bb", "  four words of text"]


def test_the_preview_shows_the_first_pairs(generate, build, conditioning, part):
    class Vae:
        def decode(self, samples):
            assert samples.shape == (4, 4, 6, 8)
            return torch.zeros(4, 48, 64, 3)

    assert generate(build(), positive=conditioning[0], vae=Vae())[2].shape == (4, 48, 64, 3)
    rough = generate(build(), positive=conditioning[0])[2]
    assert rough.ndim == 4 and rough.shape[-1] == 3 and 0 <= rough.min() < rough.max() <= 1


@pytest.mark.parametrize("calls", [0, 2, 5, 8])
def test_a_cancel_keeps_what_was_made(generate, build, conditioning, cancel_after, monkeypatch, load, unharmed, calls):
    """3 steps per batch of 3: after 5 calls the first batch is there, after 8 the second."""
    import comfy.model_management

    model = build()
    with unharmed(model), monkeypatch.context():
        cancel_after(calls)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            generate(model, positive=conditioning[0])
        monkeypatch.undo()
    made = calls // 3 * 3
    if made:
        with pytest.raises(ValueError, match=f"unfinished, {made} of 7 exist"):
            load("my_pairs")
    pairs, report, _ = generate(model, positive=conditioning[0])
    assert f"generated {7 - made} pairs in" in report
    whole = generate(model, positive=conditioning[0], name="whole")[0]
    assert torch.equal(pairs.read(range(7)).eps, whole.read(range(7)).eps)
    assert torch.equal(pairs.read(range(7)).x0, whole.read(range(7)).x0)


def test_the_set_is_loaded_and_listed(generate, build, conditioning, load, host):
    pairs, report, _ = generate(build(), positive=conditioning[0], name="sets/cats")
    found, loaded_report = load("sets/cats")
    assert host.pair_sets() == ["sets/cats"] and found.fingerprint == pairs.fingerprint
    assert loaded_report.splitlines()[:4] == report.splitlines()[:4]
    assert report.splitlines()[0] == "7 reflow pairs of 4x6x8 under 1 prompts: cats"


def test_progress_and_text(generate, build, conditioning, part, monkeypatch):
    said = []
    monkeypatch.setattr(part("host.progress"), "SECONDS_BETWEEN_TEXTS", 0)
    progress = part("host.progress").NodeProgress
    show = progress.show
    monkeypatch.setattr(
        progress,
        "show",
        lambda self, done, text, picture=None: said.append((done, text, picture)) or show(self, done, text, picture),
    )
    generate(build(), positive=conditioning[0])
    done = [one[0] for one in said]
    assert done == sorted(done) and done[-1] == 21 and len(done) == 12
    assert said[-1][1].startswith("0 min left, 7 of 7 pairs, ") and said[-1][1].endswith(" pairs/s")
    assert said[3][2] is not None


def test_nothing_of_the_model_is_changed(generate, build, conditioning, unharmed):
    model = build()
    with unharmed(model):
        generate(model, positive=conditioning[0], negative=conditioning[1], cfg=4.0)


def test_a_lora_is_part_of_the_teacher(generate, build, train, stock, conditioning):
    """Another round: pairs of the patched model are other pairs, and the set says so."""
    model = build()
    plain = generate(model, positive=conditioning[0])[0]
    patched = stock("train", "LoraModelLoader").execute(model, train(model, learning_rate=0.1)[0], 1.0).result[0]
    with pytest.raises(ValueError, match=r"holds pairs with other settings .*base: "):
        generate(patched, positive=conditioning[0])
    other = generate(patched, positive=conditioning[0], name="round 2")[0]
    assert not torch.allclose(plain.read([0]).x0, other.read([0]).x0, atol=1e-3)


REFUSED = {
    "no prompts": ({}, "there are no prompts; write one per line"),
    "no clip": ({"prompts": "a cat"}, "connect the 'clip'"),
    "both": ({"prompts": "a cat", "positive": "given"}, "'positive' is connected and there are prompts too"),
    "no file": ({"prompt_file": "/nowhere/x.txt"}, r"prompt_file .*x\.txt cannot be read"),
    "no negative": ({"positive": "given", "cfg": 3.0}, "cfg is 3 but nothing is connected to 'negative'"),
    "empty positive": ({"positive": []}, "'positive' is an empty conditioning; connect"),
    "empty negative": ({"positive": "given", "cfg": 3.0, "negative": []}, "'negative' is an empty conditioning; con"),
    "size": ({"positive": "given", "width": 60}, "multiples of 8 for this model, got 60 and 48"),
    "name": ({"positive": "given", "name": "../x"}, "the name of the pairs '../x' leads out of its folder"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(generate, build, conditioning, output, case):
    given, words = REFUSED[case]
    given = {**given, "positive": conditioning[0]} if given.get("positive") == "given" else given
    with pytest.raises(ValueError, match=words):
        generate(build(), **given)
    assert not list(output.rglob("*.safetensors"))


def test_other_kinds_of_models_are_refused_by_name(generate, build, conditioning):
    with pytest.raises(ValueError, match=r"StableCascadeSampling, .*'Generate Reflow Pairs \(Diff2Flow\)'"):
        generate(build("STABLE_CASCADE"), positive=conditioning[0])


def test_latents_that_are_not_finite(generate, build, conditioning, watch):
    broken = watch(build(), lambda run, x, timesteps: run() * float("nan"))
    with pytest.raises(ArithmeticError, match="NaN or infinite between t"):
        generate(broken, positive=conditioning[0])


def test_loading_nothing(load):
    with pytest.raises(ValueError, match="no set of pairs is selected in 'pairs'"):
        load("none")
    with pytest.raises(ValueError, match=r"there are no reflow pairs in .*gone"):
        load("gone")
