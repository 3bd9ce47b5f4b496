"""What earlier code wrote opens as it did: LoRAs, a training run, reflow pairs, and graphs by their nodes' schemas."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from devtools.schemas import breaks, describe
from devtools.snapshot import read

OLD = Path(__file__).resolve().parents[1] / "fixtures" / "before_rooms"
KEY = "980b9a976ef333d7e653bfa4a4681b15d75ed2d74bc50917bbd55ee94473545c"  # of the cache, for the parts in the test
LORAS = sorted((OLD / "loras").glob("*.safetensors"))
SETTINGS = {
    "run_name": "before", "rank": 2, "targets": "attention", "save_every": 0, "preview_every": 0,
    "learning_rate": 1e-2, "batch_size": 2, "warmup_steps": 0,
}  # fmt: skip


@pytest.fixture
def output(tmp_path, comfy):
    """The host's output folder is a temporary one."""
    import folder_paths

    before = folder_paths.get_output_directory()
    folder_paths.set_output_directory(str(tmp_path))
    yield tmp_path
    folder_paths.set_output_directory(before)


def test_no_node_has_lost_what_saved_graphs_keep(schemas):
    """But for the trainer, which had all of its settings as widgets before there were settings nodes."""
    old = read(OLD / "schemas.json")
    assert len(old) == 19
    del old["D2FTrainLora"]
    assert breaks(old, {node: describe(schema) for node, schema in schemas.items()}) == []
    assert {node: [one["id"] for one in each["inputs"]] for node, each in old.items()} == {
        node: [one.id for one in schemas[node].inputs][: len(old[node]["inputs"])] for node in old
    }


@pytest.mark.parametrize("path", LORAS, ids=lambda path: path.stem)
def test_a_lora_is_read_and_applied_as_it_was(path, build, host, sample):
    from diff2flow_kit.d2f_data.files.lora_file import load_lora

    lora, model = load_lora(path), build()
    kinds = {"lokr": "lokr", "loha": "loha"}
    assert lora.facts.objective == {"naive_fm": "naive_fm", "diffusion": "diffusion"}.get(path.stem, "diff2flow")
    assert lora.facts.kind == kinds.get(path.stem, "lora") and lora.facts.training["run_name"]
    assert all(torch.equal(lora[key], tensor) for key, tensor in load_file(path).items())
    converted = host.convert(model)
    plain, patched = (sample(each, host.stock_sigmas(converted, "simple", 3)) for each in
                      (converted, host.convert(host.apply_lora(model, lora, 1.0))))  # fmt: skip
    assert torch.isfinite(patched).all() and not torch.equal(plain, patched)


def test_a_training_run_is_resumed_where_it_stopped(build, node, conditioning, part, output):
    """Without a word that anything differs, and to the weights that the earlier code ended with."""
    shutil.copytree(OLD / "runs", output / "diff2flow" / "runs")
    trainer = node("D2FTrainLora").PREPARE_CLASS_CLONE(None)
    given = {widget.id: widget.default for widget in part("training.widgets").training_widgets()}
    given |= {**SETTINGS, "steps": 5, "resume": "continue"}
    module = part("training.options.trainer_options")
    chosen = {name: given.pop(name) for name in given.keys() & module.option_defaults().keys()}
    latents = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    lora, _, steps, *_ = trainer.execute(
        [build()],
        [{"samples": latents}],
        [conditioning[0]],
        options=[module.TrainerOptions(chosen)],
        **{name: [value] for name, value in given.items()},
    ).result
    wanted = load_file(OLD / "loras" / "five_steps.safetensors")
    start = load_file(OLD / "loras" / "three_steps.safetensors")
    assert steps == 5 and lora.keys() == wanted.keys()
    moved, apart = (
        sum(float((one[key].float() - wanted[key].float()).square().sum()) for key in wanted) ** 0.5
        for one in (start, lora)
    )
    assert apart < 0.02 * moved


def test_reflow_pairs_are_read_as_they_were(host, output):
    from diff2flow_kit.d2f_data.reflow.pair_set import ReflowPairSet

    shutil.copytree(OLD / "pairs", output / "diff2flow" / "pairs")
    pairs = ReflowPairSet(host.pairs_folder() / "before")
    read_pairs = pairs.read(range(4))
    shards = [load_file(path) for path in sorted((OLD / "pairs" / "before").glob("shard-*"))]
    assert len(pairs) == 4 and list(pairs.prompts) == ["a", "bb"]
    for name in ("eps", "x0"):
        assert torch.equal(getattr(read_pairs, name), torch.cat([shard[name] for shard in shards]).float())


def test_hashes_that_name_files_are_what_they_were(build, part):
    """Of a noise schedule, a key of the cache, tensors, and the weights of a model."""
    from diff2flow_kit.d2f_core import NoiseSchedule
    from diff2flow_kit.d2f_data.fingerprints import content_digest, schedule_fingerprint
    from diff2flow_kit.d2f_data.image_sets.latent_cache import cache_key

    settings = read(OLD / "pairs" / "before" / "manifest.json")["settings"]
    schedule = NoiseSchedule.from_sigmas(build().get_model_object("model_sampling").sigmas)
    assert schedule_fingerprint(schedule)[:16] == settings["schedule"]
    conditions = load_file(OLD / "pairs" / "before" / "conditions.safetensors")
    assert content_digest(conditions) == settings["conditions"]
    assert part("fingerprints").weights_fingerprint(build().model.diffusion_model) == settings["base"]
    assert cache_key("a", 1, [2]) == KEY
