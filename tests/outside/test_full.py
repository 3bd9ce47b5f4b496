"""Full fine-tuning: all weights of the network, in one process, several, and sharded over several."""

import json
import signal
import time
from types import SimpleNamespace

import pytest
import torch

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("accelerate")

from PIL import Image  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from d2f_diffusers.layout import layer_names  # noqa: E402
from d2f_diffusers.train.__main__ import main  # noqa: E402
from d2f_diffusers.train.flags import read  # noqa: E402
from d2f_diffusers.train.network import PipelineNetwork  # noqa: E402
from d2f_diffusers.train.shards import check_shardable, fsdp_plugin  # noqa: E402

SHARDED = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}
BASE = (
    *("--train", "full", "--resolution", "96", "--bucket_step", "32", "--learning_rate", "1e-4", "--use_ema"),
    *("--ema_decay", "0.5", "--proportion_empty_prompts", "0.3", "--max_grad_norm", "1000"),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory, parts):
    """A folder with the tiny pipeline and a few pictures."""
    place = tmp_path_factory.mktemp("full")
    scheduler = diffusers.DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    diffusers.StableDiffusionPipeline(**parts, scheduler=scheduler).save_pretrained(place / "model")
    (place / "data").mkdir()
    for number, colour in enumerate(("red", "green", "blue", "cyan", "white")):
        Image.new("RGB", (96, 96) if number < 3 else (128, 64), colour).save(place / "data" / f"{number}.png")
        (place / "data" / f"{number}.txt").write_text(f"a {colour} cube", encoding="utf-8")
    return place


def words(place, output, *arguments, steps=2, accumulation=1):
    return [
        *("--pretrained_model_name_or_path", str(place / "model"), "--train_data_dir", str(place / "data")),
        *("--output_dir", str(output), "--cache_dir", str(place / "cache"), "--max_train_steps", str(steps)),
        *("--gradient_accumulation_steps", str(accumulation), *BASE, *arguments),
    ]  # fmt: skip


def finish(process, patience=240):
    out, _ = process.communicate(timeout=patience)
    return process.returncode, out


def state(folder):
    return load_file(folder / "state.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_run_leaves_a_model_that_diffusers_loads(place, tmp_path):
    out = tmp_path / "run"
    prompt = ("--validation_prompt", "a red cube", "--checkpointing_steps", "1", "--checkpoints_total_limit", "2")
    assert main(words(place, out, *prompt, steps=3)) == 0
    assert sorted(path.name for path in out.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-3"]
    assert sorted(path.name for path in (out / "samples").iterdir()) == [f"step{n:06}_0.png" for n in (1, 2, 3)]
    settings = json.loads((out / "settings.json").read_text("utf-8"))
    assert (settings["adapter"], settings["run_name"]) == ("full", "my_model")
    made = diffusers.StableDiffusionPipeline.from_pretrained(out)
    assert type(made.scheduler).__name__ == "DDIMScheduler"
    weights = made.unet.state_dict()
    saved = load_file(out / "checkpoint-3" / "unet" / "diffusion_pytorch_model.safetensors")
    before = load_file(place / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    assert same(weights, saved) and weights.keys() == before.keys()
    still = [name for name, tensor in weights.items() if torch.equal(tensor, before[name])]
    assert not still
    averages = {name: tensor for name, tensor in state(out / "checkpoint-3").items() if "/average/module." in name}
    assert sorted(float(one.sum()) for one in averages.values()) == sorted(float(one.sum()) for one in saved.values())


def test_pictures_saves_and_a_resume_do_not_change_the_run(place, tmp_path):
    plain, busy = tmp_path / "plain", tmp_path / "busy"
    assert main(words(place, plain, steps=4)) == 0
    extra = ("--checkpointing_steps", "1", "--validation_prompt", "a red cube")
    assert main(words(place, busy, *extra, steps=2)) == 0
    assert main(words(place, busy, *extra, "--resume_from_checkpoint", "latest", steps=4)) == 0
    assert same(state(plain / "checkpoint-4"), state(busy / "checkpoint-4"))


def test_a_step_is_that_of_plain_torch(place, tmp_path, monkeypatch):
    """The gradient of the Diff2Flow loss over all weights of the UNet, written out without the kit."""
    from d2f_core import Trainer

    seen = {}

    def clip(self):
        seen["gradients"] = {name: one.grad.clone() for name, one in self.trained.named(self.weights).items()}
        return norm(self)

    norm = Trainer._clip
    monkeypatch.setattr(Trainer, "_clip", clip)
    asked = []
    loss = Trainer._loss
    monkeypatch.setattr(
        Trainer, "_loss", lambda self, batch, pair: asked.append((batch, pair)) or loss(self, batch, pair)
    )
    assert main(words(place, tmp_path / "run", "--gradient_checkpointing", "--seed", "3", steps=1)) == 0
    unet = diffusers.UNet2DConditionModel.from_pretrained(place / "model" / "unet")
    ((batch, pair),) = asked
    assert 0.1 < float(pair.t) < 0.95  # inside the table
    t = pair.t.float().reshape(-1, 1, 1, 1)
    scale = (t**2 + (1 - t) ** 2).sqrt()
    alphas = diffusers.DDIMScheduler.from_pretrained(place / "model" / "scheduler").alphas_cumprod.double()
    sigmas = ((1 - alphas) / alphas).log() / 2
    level = ((1 - pair.t) / pair.t).log()
    row = int((sigmas < level).sum()) - 1
    timestep = row + (level - sigmas[row]) / (sigmas[row + 1] - sigmas[row])
    x = t * pair.x0 + (1 - t) * pair.eps
    eps = unet(x / scale, timestep.float(), batch.condition["c_crossattn"]).sample
    velocity = (x - (1 - t) * eps) / t - eps
    (velocity - (pair.x0 - pair.eps)).square().mean().backward()
    names = dict(layer_names(unet))
    for name, gradient in seen["gradients"].items():
        path, _, kind = name.rpartition(".")
        wanted = unet.get_parameter(f"{names[path]}.{kind}").grad
        torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()) + 1e-6)


def test_bf16_computes_in_bfloat16_and_learns_in_float32(place, tmp_path):
    plain, low = tmp_path / "plain", tmp_path / "low"
    assert main(words(place, plain, steps=1)) == 0
    assert main(words(place, low, "--mixed_precision", "bf16", steps=1)) == 0
    one, two = (state(out / "checkpoint-1") for out in (plain, low))
    assert not same(one, two) and all(tensor.dtype == torch.float32 for tensor in two.values() if tensor.ndim)
    moments = [(one[name], two[name]) for name in one if name.endswith("exp_avg") and one[name].ndim > 1]
    cosines = [torch.cosine_similarity(a.flatten(), b.flatten(), 0) for a, b in moments]
    assert min(cosines) > 0.9
    assert json.loads((low / "settings.json").read_text("utf-8"))["dtype"] == "bfloat16"


def test_two_processes_are_one_and_sharded_ones_too(in_two, place, tmp_path):
    """Bit for bit where each holds all weights; to 1e-5 where weights are shards (FSDP2), also through a resume."""
    one, two, sharded, mixed = (tmp_path / name for name in ("one", "two", "sharded", "mixed"))
    again = ("--resume_from_checkpoint", "latest")
    assert main(words(place, one, steps=3, accumulation=2)) == 0
    assert main(words(place, mixed, steps=1, accumulation=2)) == 0
    picture = ("--validation_prompt", "a red cube")
    runs = [
        ({}, words(place, two, steps=3)),
        (SHARDED, words(place, sharded, *picture, "--checkpointing_steps", "1", "--gradient_checkpointing", steps=3)),
        (SHARDED, words(place, mixed, *again, steps=2)),
    ]
    code, out = finish(in_two(runs))
    assert code == 0, out
    assert out.count("the weights are sharded over 2 processes") == 2
    assert main(words(place, mixed, *again, steps=3, accumulation=2)) == 0
    whole = state(one / "checkpoint-3")
    assert same(whole, state(two / "checkpoint-3"))
    for folder in (sharded, mixed):
        found = state(folder / "checkpoint-3")
        assert found.keys() == whole.keys()
        for name, tensor in whole.items():
            scale = float(tensor.abs().max()) if "/optimizer/" in name else 1.0
            torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-5 * scale)
    assert diffusers.StableDiffusionPipeline.from_pretrained(sharded)
    assert len(list((sharded / "samples").iterdir())) == 3


@pytest.mark.slow
def test_sigterm_saves_sharded_weights_and_ends(in_two, place, tmp_path):
    out = tmp_path / "out"
    process = in_two([(SHARDED, words(place, out, "--checkpointing_steps", "0", steps=4000))])
    end = time.monotonic() + 180
    while not (out / "log.jsonl").exists() and time.monotonic() < end:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    code, text = finish(process, 120)
    assert code != 0
    (checkpoint,) = out.glob("checkpoint-*")
    done = len((out / "log.jsonl").read_text("utf-8").splitlines())
    assert checkpoint.name == f"checkpoint-{done}" and state(checkpoint), text
    assert (checkpoint / "unet" / "config.json").is_file()
    assert not (out / "model_index.json").exists()  # there may be no time for all of the model


def test_mistakes_get_a_sentence(place, tmp_path, said):
    out = tmp_path / "out"
    assert "rank is a setting of a LoRA" in said(words(place, out, "--rank", "4"))
    assert "target" in said(words(place, out, "--targets", "attention"))
    assert not out.exists()
    assert main(words(place, out, "--train", "lora", "--rank", "2", steps=1)) == 0
    text = said(words(place, out, "--resume_from_checkpoint", "latest"))
    assert "adapter: lora in the file, full wanted" in text
    (tmp_path / "broken").mkdir()
    index = {"_class_name": "PaintByExamplePipelineX", "_diffusers_version": "0.42.1"}
    (tmp_path / "broken" / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    model = ("--pretrained_model_name_or_path", str(tmp_path / "broken"))
    assert "PaintByExamplePipelineX" in said([*words(place, out), *model])
    with pytest.raises(ValueError, match="SimpleNamespace has no UNet2DConditionModel"):
        PipelineNetwork(SimpleNamespace(unet=None), torch.device("cpu"), "auto", False)


def test_sharded_weights_have_their_limits(monkeypatch):
    from d2f_core.processes import share

    with pytest.raises(ValueError, match="'prodigy' cannot update sharded weights; use 'adamw'"):
        check_shardable("prodigy", torch.float32)
    with pytest.raises(ValueError, match="cannot be trained in float16; use --mixed_precision bf16"):
        check_shardable("adamw", torch.float16)
    with pytest.raises(
        ValueError, match=r"a step has 3 batches, which 2 processes .* set accumulation to a multiple of 2"
    ):
        share(3, SimpleNamespace(rank=0, count=2, sharded=True))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert fsdp_plugin(SimpleNamespace(num_processes=1)) is None
    plugin = SimpleNamespace(fsdp_version=1)
    with pytest.raises(ValueError, match="asks for FSDP version 1; add --fsdp_version 2"):
        fsdp_plugin(SimpleNamespace(num_processes=2, state=SimpleNamespace(fsdp_plugin=plugin)))


def test_accelerates_precision_counts_where_nothing_else_is_said(place, tmp_path):
    plain = words(place, tmp_path)
    assert read(plain, 1, "bf16")[0].precision == "bf16"
    assert read(plain, 1, "no")[0].precision == "auto"
    assert read([*plain, "--mixed_precision", "no"], 1, "bf16")[0].precision == "fp32"
    assert (
        read(plain)[0].learning_rate == 1e-4
        and read([one for one in plain if one not in ("--learning_rate", "1e-4")])[0].learning_rate == 1e-5
    )
