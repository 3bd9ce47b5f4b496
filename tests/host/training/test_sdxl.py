"""A small network of SDXL's kind: pooled text and sizes as its vector condition, and the original layer names."""

from pathlib import Path

import pytest
import torch


@pytest.fixture
def sdxl(small_sdxl):
    return small_sdxl(1280)


def caption(pooled, **sizes):
    return [[torch.ones(1, 7, 16), {"pooled_output": torch.full((1, 1280), pooled), **sizes}]]


def test_it_trains_and_the_vector_condition_counts(sdxl, train, fingerprint):
    mark = fingerprint(sdxl)
    captions = {"one": caption(0.5), "two": caption(1.5), "small": caption(0.5, width=512, height=256)}
    results = {name: train(sdxl, positive=given, run_name=name) for name, given in captions.items()}
    assert len({result[1]["loss"][0] for result in results.values()}) == 3
    names = {key.split(".")[0] for key in results["one"][0]}
    assert "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q" in names
    assert results["one"][0].facts.base_model == "SDXL" and fingerprint(sdxl) == mark


def test_previews_with_guidance_and_dropped_captions(sdxl, train, output):
    train(sdxl, positive=caption(0.5), negative=caption(0.0), caption_dropout=0.5, preview_every=2, preview_cfg=2.0)
    assert [path.name for path in output.rglob("*.jpg")] == ["preview_000002.jpg"]


def test_a_flow_checkpoint_of_its_shape(sdxl, train, stock, host, saved, node):
    """bigASP and its like behind ModelSamplingSD3: kohya's keys, and the file says what it was trained as."""
    from diff2flow_kit.d2f_data.files.lora_file import load_lora

    flow = stock("model_advanced", "ModelSamplingSD3")().patch(sdxl, 6.0)[0]
    lora = train(flow, positive=caption(0.5), steps=2, learning_rate=0.05)[0]
    assert all(
        key.startswith(("lora_unet_input_blocks_", "lora_unet_middle_block_", "lora_unet_output_blocks_"))
        for key in lora
    )
    file = load_lora(saved()[-1])
    assert (file.facts.objective, file.facts.prediction, file.facts.shift) == ("flow", "flow", 6.0)
    assert file.facts.base_model == "SDXL"
    loaded = node("D2FLoadLora").execute(flow, "none", 1.0, file).result[0]
    assert host.sampling_of(loaded) is host.sampling_of(flow) and len(loaded.patches) == len(
        {k.split(".")[0] for k in lora}
    )
    with pytest.raises(
        ValueError, match=r"put ModelSamplingSD3 before this node, as in the training \(its shift was 6\)"
    ):
        node("D2FLoadLora").execute(sdxl, "none", 1.0, file)


def test_samples_are_conditioned_on_their_own_sizes(sdxl, host, part):
    """As Training Set from Folder and CLIPTextEncodeSDXL say it: original and target size, and no crop."""
    from diff2flow_kit.d2f_core import Objective
    from diff2flow_kit.d2f_data.training.sample_prompts import SamplePrompt

    prompts = (SamplePrompt("a", "b", 64, 96), SamplePrompt("a", "b", 128, 64))
    given = part("training.samples.sample_set").SampleSet(
        prompts, {"a": caption(0.5), "b": caption(0.1)}, EightPixels()
    )
    with host.training(sdxl) as network:
        objective = Objective(network.alignment)
        drawer = part("training.samples.drawing").SampleDrawer(
            sdxl, network, objective, "t_min", given, Path("nowhere"), print
        )
        for velocity, prompt in zip(drawer.velocities, prompts, strict=True):
            sides = {"width": prompt.width, "height": prompt.height}
            sizes = {**sides, "crop_w": 0, "crop_h": 0, **{f"target_{name}": side for name, side in sides.items()}}
            for condition, pooled in ((velocity.condition, 0.5), (velocity.null, 0.1)):
                wanted = network.condition(caption(pooled, **sizes), (4, prompt.height // 8, prompt.width // 8))
                assert torch.equal(condition["y"], wanted["y"])


class EightPixels:
    """Stands for a VAE."""

    def spacial_compression_encode(self):
        return 8
