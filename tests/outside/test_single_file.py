"""Full fine-tunes as one file: the original's names, and the real ComfyUI opens it."""

import pytest
import torch

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

from d2f_data.files.lora_metadata import LoraFacts, read_facts  # noqa: E402
from d2f_diffusers.single_file import (  # noqa: E402
    CheckpointNameError,
    checkpoint_tensors,
    save_checkpoint,
    unet_tensors,
)

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
# Two resolutions are enough for ComfyUI to see SD1.5 in a network; text encoder and VAE must have their full size.
SMALL_SD15 = {
    "block_out_channels": (320, 320), "layers_per_block": 1, "cross_attention_dim": 768, "attention_head_dim": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}  # fmt: skip
SD15 = {"cross_attention_dim": 768, "attention_head_dim": 8}
SD20 = {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}
SDXL = {
    "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20), "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "use_linear_projection": True,
    "transformer_layers_per_block": (1, 2, 10), "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
VAE = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
FACTS = {
    "objective": "diff2flow", "prediction": "eps", "schedule": "s" * 64, "start": "noise", "shift": 1.0,
    "base": "b" * 16, "base_model": "SD15", "steps": 7, "rank": 0, "alpha": 0.0, "kind": "full",
}  # fmt: skip


def clip(layers=12, width=768, heads=12, act="quick_gelu", projected=False):
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": heads}
    return kind(
        transformers.CLIPTextConfig(
            num_hidden_layers=layers, hidden_act=act, projection_dim=width, eos_token_id=49407, **sizes
        )
    ).eval()


class Pipeline:
    """What the writer asks of a pipeline."""

    def __init__(self, text_encoder, vae, second=None, **schedule):
        self.text_encoder, self.vae, self.text_encoder_2 = text_encoder, vae, second
        self.scheduler = diffusers.DDIMScheduler(**SD, **schedule)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The file of a small SD1.5, and its pipeline and network."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(**SMALL_SD15).eval()
    pipeline = Pipeline(clip(), diffusers.AutoencoderKL(**VAE).eval())
    path = tmp_path_factory.mktemp("checkpoints") / "tuned.safetensors"
    save_checkpoint(path, pipeline, unet, LoraFacts(**FACTS), "tuned", "fp32")
    return path, pipeline, unet


@pytest.fixture
def loaded(comfy, written, monkeypatch):
    """The file through ComfyUI's Load Checkpoint: MODEL, CLIP and VAE."""
    import folder_paths

    import nodes

    monkeypatch.setattr(folder_paths, "get_full_path_or_raise", lambda kind, name: str(written[0]))
    with torch.inference_mode():
        yield nodes.CheckpointLoaderSimple().load_checkpoint("tuned.safetensors")


def test_comfyui_opens_the_file_and_computes_the_same(comfy, loaded, written):
    import comfy.model_management

    (model, text, vae), (_, pipeline, unet) = loaded, written
    assert type(model.model.model_config).__name__ == "SD15"
    comfy.model_management.load_models_gpu([model])
    generator = torch.Generator().manual_seed(1)
    x, context = (torch.randn(shape, generator=generator) for shape in ((2, 4, 16, 16), (2, 77, 768)))
    time = torch.tensor([3.0, 801.0])
    ours, theirs = unet(x, time, context).sample, model.model.diffusion_model(x, time, context)
    torch.testing.assert_close(theirs.float(), ours, rtol=1e-3, atol=1e-3)
    tokens = torch.tensor([[49406, 320, 1125, 539, 49407] + [49407] * 72])
    wanted = pipeline.text_encoder(tokens).last_hidden_state
    encoder = text.cond_stage_model.clip_l.transformer  # in float16
    torch.testing.assert_close(encoder(tokens)[0].float(), wanted, rtol=1e-2, atol=1e-2)
    held = encoder.text_model.state_dict()
    for name, tensor in pipeline.text_encoder.state_dict().items():
        assert torch.equal(held[name.removeprefix("text_model.")], tensor.half()), name
    latent = torch.randn(1, 4, 8, 8, generator=generator)
    picture = pipeline.vae.decode(latent).sample.movedim(1, -1) / 2 + 0.5
    torch.testing.assert_close(vae.decode(latent).float(), picture.clamp(0, 1), rtol=1e-3, atol=1e-3)


def test_the_file_says_how_it_was_trained(written):
    from safetensors import safe_open

    with safe_open(written[0], "pt") as file:
        metadata = dict(file.metadata())
    assert read_facts(metadata) == LoraFacts(**FACTS)
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1"
    assert metadata["modelspec.prediction_type"] == "epsilon"


@pytest.mark.parametrize("kind", ["SD15", "SD20", "SDXL"])
def test_networks_of_real_size_have_the_hosts_names_and_shapes(comfy, kind):
    """On the meta device: every weight of ComfyUI's own network, and no other, in its shape."""
    import comfy.model_detection

    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(**{"SD15": SD15, "SD20": SD20, "SDXL": SDXL}[kind])
        state = {f"model.diffusion_model.{name}": tensor for name, tensor in unet_tensors(unet)}
        config = comfy.model_detection.model_config_from_unet(state, "model.diffusion_model.")
        assert type(config).__name__ == kind
        host = config.get_model({}, "model.diffusion_model.", device="meta").diffusion_model
    wanted = {f"model.diffusion_model.{name}": tensor.shape for name, tensor in host.state_dict().items()}
    assert {name: tensor.shape for name, tensor in state.items()} == wanted


def test_openclips_form_is_turned_back_by_comfyui(comfy):
    import comfy.utils

    torch.manual_seed(0)
    encoder = clip(layers=2, width=64, heads=2, act="gelu", projected=True)
    tensors = checkpoint_tensors(xl(encoder), tiny_xl())
    given = {name: tensor for name, tensor in tensors.items() if name.startswith("conditioner.embedders.1.model.")}
    given = {name.replace("conditioner.embedders.1.model.", "clip_g."): tensor for name, tensor in given.items()}
    back = comfy.utils.clip_text_transformers_convert(dict(given), "clip_g.", "")
    wanted = encoder.state_dict()
    for name, tensor in wanted.items():
        assert torch.equal(back.pop(name), tensor), name
    assert not back


def xl(second, **schedule):
    with torch.device("meta"):
        return Pipeline(clip(1, 64, 2), diffusers.AutoencoderKL(**VAE), second, **schedule)


def tiny_xl():
    with torch.device("meta"):
        return diffusers.UNet2DConditionModel(**SDXL)


def test_marks_of_v_prediction_are_those_that_comfyui_looks_for(comfy):
    with torch.device("meta"):
        encoder = clip(1, 64, 2, projected=True)
    options = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    tensors = checkpoint_tensors(xl(encoder, **options), tiny_xl())
    assert {"v_pred", "ztsnr"} <= tensors.keys()
    assert not {"v_pred", "ztsnr"} & checkpoint_tensors(xl(encoder), tiny_xl()).keys()


def test_pipelines_that_single_files_do_not_know(parts):
    pipeline = Pipeline(parts["text_encoder"], parts["vae"])
    with pytest.raises(CheckpointNameError, match=r"width 32 is no SD1\.5 \(768\)"):
        checkpoint_tensors(pipeline, parts["unet"])
    pipeline.vae = diffusers.AutoencoderTiny()
    with pytest.raises(CheckpointNameError, match="AutoencoderTiny has no names"):
        checkpoint_tensors(pipeline, parts["unet"])
