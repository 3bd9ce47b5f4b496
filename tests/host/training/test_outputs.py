"""What comes out of the trainer node, and what it shows while it runs."""

import re
from types import SimpleNamespace

import pytest
import torch


def test_the_stock_loader_puts_the_lora_on_a_model(build, train, stock, sample, table_levels):
    model = build()
    lora = train(model, steps=6, learning_rate=0.1, targets="all", full_ends=True)[0]
    patched = stock("train", "LoraModelLoader").execute(model, lora, 1.0).result[0]
    levels = table_levels(model, 3)
    assert not torch.allclose(sample(patched, levels), sample(model, levels), atol=1e-3)
    # Every key found its layer, and the biases of the two full ends theirs.
    assert len(patched.patches) == len({key.split(".")[0] for key in lora}) + 2


@pytest.mark.parametrize("adapter", ["lora", "lokr", "loha", "dora", "oft"])
def test_the_patched_model_is_the_network_in_training(
    build, train, stock, host, part, latents, conditioning, monkeypatch, adapter
):
    """The weights that the stock loader patches compute what the adapters beside the layers do."""
    from diff2flow_kit.d2f_core import attached

    model, seen, x = build(), [], latents[:1]
    run = part("training.run").TrainingRun
    finish = run.lora

    def kept(self):
        with torch.no_grad(), attached(self.network.module, self.trainer.averaged()):
            seen.append(self.network(x, torch.tensor([300.0]), self.items.condition(0)))
        return finish(self)

    monkeypatch.setattr(run, "lora", kept)
    lora = train(model, steps=6, learning_rate=0.05, adapter=adapter, full_ends=True, alpha=1.0)[0]
    patched = stock("train", "LoraModelLoader").execute(model, lora, 1.0).result[0]
    outputs = []
    for one in (patched, model):
        with host.training(one) as network, torch.no_grad():
            condition = network.condition(conditioning[0], x.shape[1:])
            outputs.append(network(x, torch.tensor([300.0]), condition))
    torch.testing.assert_close(outputs[0], seen[-1], rtol=1e-4, atol=1e-5)
    assert float((outputs[0] - outputs[1]).abs().max()) > 1e-2


def test_the_stock_node_saves_the_lora(build, train, stock, output):
    lora, _, steps, *_ = train(build())
    for _ in range(2):
        stock("train", "SaveLoRA").execute(lora, "loras/stock", steps)
    assert len(list((output / "loras").glob("stock_3_steps_0000*_.safetensors"))) == 2


@pytest.fixture
def draw(stock, output):
    """`draw(loss_map)` -> the picture of the stock Plot Loss Graph."""
    import folder_paths

    graph = stock("train", "LossGraphNode")
    graph.hidden = SimpleNamespace(prompt=None, extra_pnginfo=None)
    before = folder_paths.get_temp_directory()
    folder_paths.set_temp_directory(str(output))
    yield lambda losses: graph.execute(losses, "loss_graph").ui.as_dict()["images"]
    folder_paths.set_temp_directory(before)


@pytest.mark.parametrize("steps", [1, 3])
def test_the_stock_node_plots_the_losses(build, train, draw, steps):
    losses = train(build(), steps=steps)[1]
    assert len(losses["loss"]) == max(steps, 2) and len(draw(losses)) == 1


@pytest.mark.parametrize("losses", [[], [0.0], [0.5], [0.5, 0.5, 0.5], [0.0, 0.0], [1e9, 1e9], [0.1, 0.2]])
def test_losses_that_do_not_change_can_be_plotted(part, draw, losses):
    given = part("training.train_lora").plottable(losses)
    assert given[: len(losses)] == losses and len(draw({"loss": given})) == 1


@pytest.fixture
def shown(part, monkeypatch):
    """What the node shows: lines of text, and (value, total, preview) of the bar."""
    import comfy.utils

    texts, bars = [], []
    monkeypatch.setattr(part("host.progress").NodeProgress, "say", lambda self, text: texts.append(text))
    monkeypatch.setattr(part("host.progress"), "SECONDS_BETWEEN_TEXTS", -1.0)
    monkeypatch.setattr(comfy.utils, "PROGRESS_THROTTLE_MIN_INTERVAL", 0.0)
    monkeypatch.setattr(
        comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, preview, **node: bars.append((value, total, preview))
    )
    return SimpleNamespace(texts=texts, bars=bars)


LINE = (
    r"\d+ min \d+ s left, step {step} of 4: loss [\d.e-]+ \(mean [\d.e-]+, validation [\d.e-]+\), lr 0\.01, "
    r"[\d.e+-]+ steps/s"
)


def test_progress_text_and_previews(build, train, shown, latents, output):
    from PIL import Image

    train(build(), steps=4, preview_every=2, validation_latents=latents[:2], validate_every=1)
    assert shown.texts[0] == "starting" and len(shown.texts) == 5
    for step, text in enumerate(shown.texts[1:], 1):
        assert re.fullmatch(LINE.format(step=step), text), text
    assert [value for value, _, _ in shown.bars] == [0, 1, 2, 3, 4] and {total for _, total, _ in shown.bars} == {4}
    kind, picture, size = shown.bars[2][2]
    assert kind == "JPEG" and isinstance(picture, Image.Image) and size == max(picture.size) >= 256
    assert shown.bars[1][2] is None
    folder = output / "diff2flow" / "runs" / "my_lora"
    assert sorted(path.name for path in folder.glob("*.jpg")) == ["preview_000002.jpg", "preview_000004.jpg"]
    with Image.open(folder / "preview_000004.jpg") as opened:
        assert opened.size == shown.bars[4][2][1].size


def test_a_cancel_between_two_steps_is_noticed(build, train, part, saved, monkeypatch, unharmed):
    import comfy.model_management

    model, line = build(), part("training.status").StatusLine.line

    def cancel(self, record, *args):
        if record.step == 2:
            comfy.model_management.interrupt_current_processing(True)
        return line(self, record, *args)

    with unharmed(model):
        monkeypatch.setattr(part("training.status").StatusLine, "line", cancel)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            train(model, steps=2)
    assert [path.stem for path in saved()] == ["my_lora_step000002"]


def test_a_resume_says_so(build, train, shown):
    train(build(), steps=2)
    shown.texts.clear()
    train(build(), steps=3)
    assert shown.texts[0] == "resuming after step 2" and " left, step 3 of 3: " in shown.texts[1]


def test_a_new_run_beside_one_of_its_name_says_why(build, train, shown, caplog):
    """So that nobody takes it for the old one going on: in every line on the node, in full in the log."""
    train(build(), steps=2, lr_schedule="cosine")
    assert "new run" not in " ".join(shown.texts)
    shown.texts.clear()
    with caplog.at_level("INFO"):
        train(build(), steps=3, lr_schedule="cosine")
    note = "; new run my_lora_00002 (not as in my_lora: steps_of_lr_schedule)"
    assert shown.texts[0] == f"starting{note}" and len(shown.texts) == 4
    assert all(text.endswith(f" steps/s{note}") for text in shown.texts[1:])
    assert "my_lora has other settings:\n  steps_of_lr_schedule: 2 in the file, 3 wanted" in caplog.text
    shown.texts.clear()
    train(build(), steps=1, rank=3, targets="all", batch_size=1, dropout=0.1)
    assert re.search(r"; new run my_lora_00003 \(not as in my_lora_00002: \w+, \w+, \w+ and 3 more\)$", shown.texts[0])
    shown.texts.clear()
    train(build(), steps=1, resume="new")
    assert shown.texts[0] == "starting"


def test_previews_show_the_lora_in_training(build, train, output):
    """Other pictures as it learns; at rate 0 the same ones. Their noise is the same each time."""
    for rate, alike in ((1e-7, True), (0.3, False)):
        train(build(), steps=2, preview_every=1, learning_rate=rate, run_name=f"rate {rate}", targets="all")
        one, two = sorted((output / "diff2flow" / "runs" / f"rate {rate}").glob("*.jpg"))
        assert (one.read_bytes() == two.read_bytes()) is alike


def test_previews_do_not_change_what_is_learned(build, train, same):
    model, settings = build(), {"dropout": 0.2, "ema": 0.5, "steps": 4}
    assert same(train(model, **settings)[0], train(model, run_name="b", preview_every=1, **settings)[0])


def test_previews_are_decoded_by_a_vae(build, train, shown):
    given = []

    class Vae:
        def decode(self, samples):
            given.append(samples)
            return torch.full((len(samples), 64, 64, 3), 0.5)

    train(build(), steps=2, preview_every=2, vae=Vae())
    assert [tuple(samples.shape) for samples in given] == [(4, 4, 8, 8)]
    picture = shown.bars[-1][2][1]
    assert picture.size == (4 * 256, 256) and picture.getpixel((5, 5)) == (128, 128, 128)


def test_validation_is_the_same_measure_each_time(build, train, latents, shown):
    def validations(**settings):
        shown.texts.clear()
        train(build(), validation_latents=latents[:3], validate_every=1, steps=3, **settings)
        return [re.search(r"validation ([\d.e-]+)", text)[1] for text in shown.texts[1:]]

    still = validations(learning_rate=1e-7, run_name="still")
    moving = validations(learning_rate=0.5, run_name="moving")
    assert len(set(still)) == 1 and len(set(moving)) == 3


def test_the_plot_has_the_validation(build, train, latents):
    """Its line is red."""
    plots = [
        train(build(), run_name=str(i), **given)[3] for i, given in enumerate([{}, {"validation_latents": latents[:1]}])
    ]
    reds = [bool(((plot[..., 0] > 0.7) & (plot[..., 1] < 0.4)).any()) for plot in plots]
    assert reds == [False, True] and all(plot.min() >= 0 and plot.max() <= 1 for plot in plots)


def test_time_left(part, monkeypatch):
    clocks = part("training.status")
    assert [clocks.duration(s) for s in (0.4, 59.6, 61, 3600, 90000)] == [
        "0 min 0 s", "1 min 0 s", "1 min 1 s", "1 h 0 min", "25 h 0 min",
    ]  # fmt: skip
    now = iter([100.0, 110.0])
    monkeypatch.setattr(clocks.time, "perf_counter", lambda: next(now))
    clock = clocks.StatusLine(20, 60)
    record = SimpleNamespace(step=25, loss=0.5, learning_rate=1e-4, seconds=2.0)
    line = clock.line(record, [0.25] * 10 + [0.5] * 50, [])
    assert line == "1 min 10 s left, step 25 of 60: loss 0.5 (mean 0.5), lr 0.0001, 0.5 steps/s"


def test_a_quick_picture_is_made_on_the_cpu(build, part, latents, monkeypatch):
    """The host does not wait for a picture that it copies from CUDA (Comfy-Org/ComfyUI#4183)."""
    import latent_preview

    model, asked = build(), []
    expected = part("host.progress").quick_picture(model, latents[:1])
    monkeypatch.setattr(latent_preview, "get_previewer", lambda device, latent_format: asked.append(device))
    monkeypatch.setattr(model, "load_device", torch.device("cuda"))
    on_device = SimpleNamespace(cpu=lambda: latents[:1])
    assert part("host.progress").quick_picture(model, on_device).tobytes() == expected.tobytes()
    assert asked == [torch.device("cpu")]


def test_every_step_is_a_point_of_the_curves(build, train, part, latents, monkeypatch):
    seen = []
    monkeypatch.setattr(
        part("training.run").Curves, "add", lambda self, record, validation=None: seen.append((record.step, validation))
    )
    train(build(), steps=3, validation_latents=latents[:2], validate_every=2)
    assert [step for step, _ in seen] == [1, 2, 3] and seen[0][1] is None and all(value > 0 for _, value in seen[1:])
