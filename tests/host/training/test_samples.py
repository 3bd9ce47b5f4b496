"""Samples of the user's own prompts: drawn in training without a trace in it, kept in the run, and shown."""

import dataclasses
import json

import pytest
import torch
from PIL import Image

PROMPTS = "a red cube --d 1\na blue ball --n bad --w 72 --h 64 --s 3 --l 4 --d 2\nsharp --l 1"


class Vae:
    """Stands for a VAE: grey pictures of the latents' mean, 8 pixels per position; counts, and may fail."""

    latent_channels, vae_dtype = 4, torch.float32

    def __init__(self):
        self.given, self.before = [], lambda samples: None

    def spacial_compression_encode(self):
        return 8

    def decode(self, samples):
        self.before(samples)
        self.given.append(samples.clone())
        torch.rand(3)  # as some VAEs do
        grey = (samples.mean(1) * 0.2 + 0.5).clamp(0, 1)
        return torch.nn.functional.interpolate(grey[:, None], scale_factor=8)[:, 0, ..., None].expand(-1, -1, -1, 3)


@pytest.fixture
def vae():
    return Vae()


@pytest.fixture
def prompts(part, vae):
    """`prompts(text, **defaults)` -> D2F_SAMPLES: every text has a conditioning of its own."""
    from diff2flow_kit.d2f_data.training.sample_prompts import SamplePrompt, parse_prompts

    def make(text=PROMPTS, **defaults):
        found = parse_prompts(text, SamplePrompt(**{"width": 64, "height": 64, "steps": 2, "cfg": 3.0, **defaults}))
        texts = sorted({one.text for one in found} | {one.negative for one in found})
        encoded = {one: encode(one) for one in texts}
        return [part("training.samples.sample_set").SampleSet(tuple(found), encoded, vae)]

    def encode(text):
        generator = torch.Generator().manual_seed(sum(map(ord, text)))
        return [[torch.randn(1, 7, 16, generator=generator), {}]]

    return make


@pytest.fixture
def samples(output):
    """`samples("my_lora")` -> {name: pixels} of the samples of a run."""

    def read(run="my_lora"):
        found = {}
        for path in sorted((output / "diff2flow" / "runs" / run / "samples").glob("step*.png")):
            with Image.open(path) as image:
                found[path.name] = image.tobytes()
        return found

    return read


def steps_of(found):
    return sorted({int(name[4:10]) for name in found})


def test_samples_from_the_untrained_model_to_the_last_step(build, train, prompts, samples, output, vae):
    *_, sheet, _ = train(build(), steps=5, preview_every=2, samples=prompts())
    found = samples()
    assert sorted(found) == [f"step{step:06}_{row}.png" for step in (0, 2, 4, 5) for row in range(3)]
    assert [tuple(one.shape) for one in vae.given[:3]] == [(1, 4, 8, 8), (1, 4, 8, 9), (1, 4, 8, 8)]
    assert sheet.shape == (1, 20 + 3 * (20 + 264), 4 * 264, 3) and 0 <= float(sheet.min()) < float(sheet.max()) <= 1
    folder = output / "diff2flow" / "runs" / "my_lora"
    with Image.open(folder / "samples" / "step000004_1.png") as image:
        assert image.size == (72, 64) and image.info["diff2flow.step"] == "4"
        told = json.loads(image.info["diff2flow.sample"])
    assert (told["text"], told["negative"], told["cfg"], told["seed"]) == ("a blue ball", "bad", 4.0, 2)
    with Image.open(folder / "samples" / "sheet.png") as image:
        assert image.size == (sheet.shape[2], sheet.shape[1])
        assert image.tobytes() == (sheet[0] * 255).round().to(torch.uint8).numpy().tobytes()
    assert not list(folder.glob("preview_*"))
    with (
        Image.open(output / "loras" / "diff2flow" / "my_lora.png") as image,
        Image.open(folder / "samples" / "step000005_0.png") as last,
    ):
        assert image.info["diff2flow.run"] == "my_lora"
        assert image.getextrema() and last.getpixel((5, 5)) in {image.getpixel((x, 5)) for x in range(image.width)}


@pytest.mark.parametrize("settings", [
    {"dropout": 0.2, "ema": 0.5}, {"full_ends": True, "targets": "all"}, {"adapter": "lokr"}, {"checkpointing": True},
], ids=str)  # fmt: skip
def test_the_lora_is_that_of_a_run_without_samples(build, train, prompts, same, settings):
    model, noise = build(), torch.get_rng_state()
    plain = train(model, steps=4, **settings)
    drawn = train(model, steps=4, run_name="b", preview_every=1, samples=prompts(), **settings)
    assert same(plain[0], drawn[0]) and plain[1] == drawn[1]
    assert torch.equal(torch.get_rng_state(), noise)


def test_a_resume_goes_on_with_the_sheet_and_gives_the_same_lora(build, train, prompts, samples, same):
    plain = train(build(), steps=4, run_name="plain")[0]
    *_, sheet, _ = train(build(), steps=4, run_name="whole", preview_every=1, samples=prompts())
    train(build(), steps=2, preview_every=1, samples=prompts())
    lora, *_, resumed, _ = train(build(), steps=4, preview_every=1, samples=prompts())
    assert same(lora, plain) and torch.equal(resumed, sheet)
    assert samples("my_lora") == samples("whole") and steps_of(samples()) == [0, 1, 2, 3, 4]


def test_a_finished_run_draws_nothing_again(build, train, prompts, samples, vae):
    *_, sheet, _ = train(build(), steps=2, samples=prompts())
    before = len(vae.given)
    *_, again, _ = train(build(), steps=2, samples=prompts())
    assert len(vae.given) == before == 6 and torch.equal(again, sheet)
    # A new prompt gets its pictures of the untrained model and of the LoRA; those of the others stay.
    *_, more, _ = train(build(), steps=2, samples=prompts(PROMPTS + "\nnew"))
    assert len(vae.given) == before + 2 and len(samples()) == 8
    assert torch.equal(more[:, : sheet.shape[1]], sheet)


def test_samples_show_the_lora_and_the_first_column_does_not(build, train, prompts, samples):
    train(build(), steps=2, preview_every=1, learning_rate=0.3, targets="all", samples=prompts("a --l 1"))
    untrained, one, two = samples().values()
    assert untrained != one != two
    train(build(), steps=2, run_name="still", preview_every=1, learning_rate=1e-7, samples=prompts("a --l 1"))
    assert list(samples("still").values()) == [untrained] * 3


@pytest.mark.parametrize("grid", [{}, {"grid": "shifted", "shift": 3.0}], ids=str)
@pytest.mark.parametrize("kind", ["EPS", "V_PREDICTION", "flow"])
def test_a_sample_is_what_the_sampler_makes_of_the_lora(build, train, prompts, node, vae, kind, grid):
    """As in the graph: Load LoRA (Diff2Flow), Flow KSampler (Diff2Flow) with the same seed, steps, CFG and grid."""
    model, given = build(flow=True) if kind == "flow" else build(kind), prompts(PROMPTS, **grid)
    lora = train(model, steps=2, learning_rate=0.1, targets="all", samples=given)[0]
    loaded = node("D2FLoadLora").execute(model, "none", 1.0, lora).result[0]
    for number, prompt in enumerate(given[0].prompts):
        positive, negative = (given[0].encoded[text] for text in (prompt.text, prompt.negative))
        empty = {"samples": torch.zeros(1, 4, prompt.height // 8, prompt.width // 8)}
        settings = {"grid": prompt.grid, **({"shift": prompt.shift} if grid else {})}
        latent, _ = node("D2FKSampler").execute(
            loaded, prompt.seed, prompt.steps, prompt.cfg, {"solver": "euler"}, settings, positive, negative, empty, 1.0
        ).result  # fmt: skip
        drawn = vae.given[len(vae.given) - len(given[0].prompts) + number]
        torch.testing.assert_close(drawn, latent["samples"], rtol=1e-3, atol=1e-3)
        assert float(drawn.std()) > 0.1


def test_a_cfg_of_1_asks_once_per_step_and_others_twice(build, train, prompts, around_network):
    calls = []

    def count(call, network, x):
        calls.extend([tuple(x.shape)] * (not torch.is_grad_enabled()))
        return call()

    around_network(count)
    train(build(), steps=1, samples=prompts("a --l 1 --s 5\nb --l 2 --s 3 --w 72"))
    assert calls == 2 * ([(1, 4, 8, 8)] * 5 + [(1, 4, 8, 9)] * 6)


def test_the_negative_prompt_counts(build, train, prompts, samples):
    train(build(), steps=1, samples=prompts("a --n x\na --n y\na --n x --l 1\na --n y --l 1"))
    x, y, x_at_1, y_at_1 = (samples()[f"step000001_{row}.png"] for row in range(4))
    assert x != y and x_at_1 == y_at_1 and x != x_at_1


@pytest.mark.parametrize("where", ["network", "vae"])
def test_a_cancel_while_drawing_loses_nothing(
    build, train, prompts, samples, around_network, saved, vae, unharmed, where, same
):
    import comfy.model_management

    model, steps = build(), {"on": 0}
    whole = train(model, steps=4, run_name="whole")[0]

    def cancel(*_):
        if not torch.is_grad_enabled() and steps["on"] == 2:
            comfy.model_management.interrupt_current_processing(True)
            comfy.model_management.throw_exception_if_processing_interrupted()

    def network(call, *_):
        steps["on"] += torch.is_grad_enabled()
        if where == "network":
            cancel()
        return call()

    around_network(network)
    if where == "vae":
        vae.before = cancel
    with unharmed(model), pytest.raises(comfy.model_management.InterruptProcessingException):
        train(model, steps=4, preview_every=1, samples=prompts())
    assert [path.stem for path in saved("my_lora*")] == ["my_lora_step000002"]
    assert steps_of(samples()) == [0, 1]
    steps["on"] = 9
    assert same(train(model, steps=4, preview_every=1, samples=prompts())[0], whole)
    assert len(samples()) == 3 * 5 and steps_of(samples()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("out of memory"), ValueError("odd")], ids=repr)
def test_errors_while_drawing_do_not_end_the_training(
    build, train, prompts, samples, vae, same, monkeypatch, part, error
):
    texts = []
    monkeypatch.setattr(part("host.progress").NodeProgress, "say", lambda self, text: texts.append(text))
    plain = train(build(), steps=3)[0]

    def fail(latents):
        if latents.shape[-1] == 9:
            raise error

    vae.before = fail
    lora, *_, sheet, _ = train(build(), steps=3, run_name="b", preview_every=1, samples=prompts())
    assert same(plain, lora) and sheet.shape[1] == 20 + 3 * 284
    assert sorted({name[-5] for name in samples("b")}) == ["0", "2"] and steps_of(samples("b")) == [0, 1, 2, 3]
    remark = f"; sample 2 could not be drawn ({type(error).__name__}: {error})"
    assert texts[-1].endswith(remark) and texts[-1].count("could not be drawn") == 1


def test_a_full_disk_does_not_end_the_training_either(build, train, prompts, monkeypatch, part, output):
    texts = []
    monkeypatch.setattr(part("host.progress").NodeProgress, "say", lambda self, text: texts.append(text))
    from diff2flow_kit.d2f_data.training import sample_files

    def full(path, write):
        raise OSError(28, f"cannot write {path.name}")

    monkeypatch.setattr(sample_files, "atomic_write", full)
    *_, steps, _, sheet, _ = train(build(), steps=2, samples=prompts("a"))
    assert steps == 2 and sheet.shape == (1, 20 + 284, 264, 3) and not list(output.rglob("*.png"))
    assert "; sample 1 could not be drawn (OSError: [Errno 28] cannot write step000000_0.png)" in texts[-1]
    assert "; the contact sheet could not be written ([Errno 28] cannot write sheet.png)" in texts[-1]


def test_the_live_preview_shows_the_newest_samples(build, train, prompts, monkeypatch):
    import comfy.utils

    bars = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_THROTTLE_MIN_INTERVAL", 0.0)
    monkeypatch.setattr(
        comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, preview, **node: bars.append((value, preview))
    )
    train(build(), steps=3, preview_every=2, samples=prompts())
    shown = [value for value, preview in bars if preview is not None]
    assert shown == [0, 2, 3]
    assert {preview[1].size for _, preview in bars if preview is not None} == {(512, 512)}


def test_samples_of_a_resume_start_with_the_untrained_model(build, train, prompts, samples):
    """A run that had no samples before gets the column of the untrained model, and that of the step it goes on from."""
    train(build(), steps=2)
    train(build(), steps=3, preview_every=1, samples=prompts())
    train(build(), steps=1, run_name="first", samples=prompts())
    assert steps_of(samples()) == [0, 2, 3]
    for row in range(3):
        name = f"step000000_{row}.png"
        assert samples()[name] == samples("first")[name]


def test_without_samples_everything_is_as_before(build, train, output):
    *_, steps, plot, sheet, _ = train(build(), steps=2, preview_every=2)
    assert steps == 2 and plot.shape == (1, 480, 800, 3) and sheet.shape == (1, 60, 640, 3)
    folder = output / "diff2flow" / "runs" / "my_lora"
    assert [path.name for path in folder.glob("*.jpg")] == ["preview_000002.jpg"]
    assert not (folder / "samples").exists()


def test_a_model_with_an_image_condition_is_refused(build, host, train, prompts, latents):
    with pytest.raises(ValueError, match="'samples' is connected, but this model takes an image condition"):
        train(host.widen(build()), condition=latents, samples=prompts())


def test_prompts_of_another_text_encoder_are_refused(build, train, prompts):
    (given,) = prompts("a")
    wrong = {text: [[torch.zeros(1, 7, 24), {}]] for text in given.encoded}
    with pytest.raises(ValueError, match="conditioning 1 of 'samples' has token embeddings of size 24"):
        train(build(), samples=[dataclasses.replace(given, encoded=wrong)])


def test_other_models_leave_the_device_after_drawing(build, train, prompts, monkeypatch, host):
    freed = []
    monkeypatch.setattr(host, "unload_others", lambda model: freed.append(model))
    model = build()
    train(model, steps=2, preview_every=1, samples=prompts())
    assert freed == [model] * 3


@pytest.fixture(scope="module")
def demo(pack):
    """MODEL, CLIP and VAE of the demo."""
    from diff2flow_kit.demo.networks import load_demo_checkpoint

    return load_demo_checkpoint()


WIDGETS = {"negative": "blurry", "width": 96, "height": 64, "steps": 3, "cfg": 2, "seed": 5}


def test_the_node_encodes_every_text_once(demo, node, monkeypatch):
    import nodes

    _, clip, vae = demo
    seen, tokenize = [], clip.tokenize
    monkeypatch.setattr(clip, "tokenize", lambda text, **others: seen.append(text) or tokenize(text, **others))
    text = "a (red:1.4) cube\na (red:1.4) cube --d 7 --n dark\na blue ball --l 1 --n unused"
    given = node("D2FSamplePrompts").execute(clip, vae, text, grid={"grid": "shifted", "shift": 2}, **WIDGETS).result[0]
    assert sorted(seen) == ["a (red:1.4) cube", "a blue ball", "blurry", "dark"]
    expected = nodes.CLIPTextEncode().encode(clip, "a (red:1.4) cube")[0]
    assert torch.equal(given.encoded["a (red:1.4) cube"][0][0], expected[0][0])
    first, second, third = given.prompts
    assert {name: getattr(first, name) for name in WIDGETS} == WIDGETS
    assert (first.grid, first.shift) == ("shifted", 2.0) and '"cfg": 2.0' in first.identity
    assert (second.seed, second.negative, third.cfg) == (7, "dark", 1.0)
    assert repr(given) == "<3 sample prompts>"


def test_the_node_knows_what_fits_the_vae(demo, node):
    _, clip, vae = demo
    with pytest.raises(ValueError, match="line 2 of 'prompts': width is 100; it must be a multiple of 8"):
        node("D2FSamplePrompts").execute(clip, vae, "a\nb --w 100", grid={"grid": "uniform"}, **WIDGETS)
    with pytest.raises(ValueError, match="input 'vae' is empty"):
        node("D2FSamplePrompts").execute(clip, None, "a", grid={"grid": "uniform"}, **WIDGETS)
    with pytest.raises(ValueError, match="steps is 0; allowed are 1 to 1000"):
        node("D2FSamplePrompts").execute(clip, vae, "a", grid={"grid": "uniform"}, **{**WIDGETS, "steps": 0})


def test_the_demo_model_draws_what_the_graph_draws(demo, node, train, samples, host):
    """From the words to the pixels of the file: CLIP, sampler and VAE of the graph, after training."""
    import nodes

    model, clip, vae = demo
    text = "a large red sphere on the left, blue background"
    given = node("D2FSamplePrompts").execute(clip, vae, text, grid={"grid": "uniform"}, **WIDGETS).result[0]
    (positive,), (negative,) = (nodes.CLIPTextEncode().encode(clip, one) for one in (text, "blurry"))
    latents = torch.zeros(2, 4, 8, 12)
    lora = train(model, latents, positive, steps=2, learning_rate=3e-2, samples=[given])[0]
    sampled = {}
    for step, one in ((0, host.convert(model)), (2, node("D2FLoadLora").execute(model, "none", 1.0, lora).result[0])):
        latent = node("D2FKSampler").execute(
            one, 5, 3, 2.0, {"solver": "euler"}, {"grid": "uniform"}, positive, negative, {"samples": latents[:1]}, 1.0
        ).result[0]  # fmt: skip
        pixels = (vae.decode(latent["samples"])[0].clamp(0, 1) * 255).round()
        sampled[step] = pixels
        drawn = torch.frombuffer(bytearray(samples()[f"step{step:06}_0.png"]), dtype=torch.uint8).view(64, 96, 3)
        assert float((drawn - pixels).abs().max()) <= 2
    assert float((sampled[0] - sampled[2]).abs().max()) > 10
