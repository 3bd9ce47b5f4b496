"""Models of the true shapes: what stock loaders make of SD1.5, SD2.1 and SDXL files can be converted."""

import pytest
import torch

COMMON = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "use_spatial_transformer": True,
    "legacy": False, "use_temporal_attention": False, "adm_in_channels": None,
}  # fmt: skip
SD = {
    **COMMON, "num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4], "transformer_depth_middle": 1,
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
}  # fmt: skip
SD15 = {**SD, "context_dim": 768, "use_linear_in_transformer": False, "num_heads": 8}
SD20 = {**SD, "context_dim": 1024, "use_linear_in_transformer": True, "num_heads": -1, "num_head_channels": 64}
SDXL = {
    **COMMON, "num_res_blocks": [2, 2, 2], "channel_mult": [1, 2, 4], "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_middle": 10, "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "context_dim": 2048,
    "use_linear_in_transformer": True, "num_heads": -1, "num_head_channels": 64, "adm_in_channels": 2816,
    "num_classes": "sequential",
}  # fmt: skip
SD2_V_KEY = "output_blocks.11.1.transformer_blocks.0.norm1.bias"
NONE = torch.zeros(0)


def without_weights(config_name, unet_config, state_dict):
    """MODEL as the host detects it from `state_dict`, its weights on the device "meta"."""
    import comfy.model_patcher
    import comfy.supported_models

    config = getattr(comfy.supported_models, config_name)(dict(unet_config))
    config.set_inference_dtype(torch.float16, None)
    model = config.get_model(state_dict, "", device="meta")
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


@pytest.mark.parametrize("config, unet, state_dict, prediction, s_max", [
    ("SD15", SD15, {}, "eps", 0.93596),
    ("SD20", SD20, {SD2_V_KEY: torch.tensor([-1.0, 1.0])}, "v", 0.93596),
    ("SD20", SD20, {SD2_V_KEY: torch.tensor([-0.01, 0.01])}, "eps", 0.93596),
    ("SDXL", SDXL, {}, "eps", 0.93596),
    ("SDXL", SDXL, {"v_pred": NONE}, "v", 0.93596),
    ("SDXL", SDXL, {"v_pred": NONE, "ztsnr": NONE}, "v", 0.99978),
], ids=["sd15", "sd21-v", "sd21-base", "sdxl", "sdxl-v", "sdxl-v-ztsnr"])  # fmt: skip
def test_detected_models_convert(host, config, unet, state_dict, prediction, s_max):
    model = without_weights(config, unet, state_dict)
    sampling = host.sampling_of(host.convert(model))
    assert sampling.alignment.prediction == prediction
    assert float(sampling.sigma_max) == pytest.approx(s_max, abs=1e-5)
    assert sampling.zsnr is ("ztsnr" in state_dict)


def test_playground_converts_with_its_own_schedule_and_deviation(host):
    """Playground 2.5 is SDXL under EDM's schedule, from sigma 0.002 to 80."""
    model = without_weights("SDXL", SDXL, {"edm_mean": NONE, "edm_std": NONE})
    sampling = host.sampling_of(host.convert(model))
    assert sampling.alignment.prediction == "edm" and sampling.alignment.sigma_data == 0.5
    assert float(sampling.sigma_max) == pytest.approx(80 / 81, abs=1e-5)
    assert float(sampling.sigma_min) == pytest.approx(0.002 / 1.002, abs=1e-5)


def checkpoint_shapes():
    """Name -> shape of every tensor of an SD1.5 checkpoint, from the host's own classes."""
    import comfy.ldm.models.autoencoder
    import comfy.ldm.modules.diffusionmodules.openaimodel as unet
    import comfy.ops
    import comfy.sd1_clip
    import comfy.supported_models

    latent = {
        "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
        "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
    }  # fmt: skip
    meta = torch.device("meta")
    with meta:
        vae = comfy.ldm.models.autoencoder.AutoencoderKL(ddconfig=latent, embed_dim=4)
        clip = comfy.sd1_clip.SD1ClipModel(device=meta, dtype=torch.float16)
    network = unet.UNetModel(**SD15, dtype=torch.float16, device=meta, operations=comfy.ops.disable_weight_init)
    text = comfy.supported_models.SD15(dict(SD15)).process_clip_state_dict_for_saving(dict(clip.state_dict()))
    parts = {"model.diffusion_model.": network.state_dict(), "first_stage_model.": vae.state_dict(), "": text}
    return {prefix + name: tuple(x.shape) for prefix, part in parts.items() for name, x in part.items()}


def write_checkpoint(path):
    """A file of SD1.5's shape in float16 with random weights of the usual scale, about 2 GB."""
    from safetensors.torch import save_file

    block = torch.randn(1 << 20, generator=torch.manual_seed(0))

    def values(name, shape):
        count = torch.Size(shape).numel()
        if len(shape) == 1:
            return torch.full(shape, float(name.endswith("weight")), dtype=torch.float16)
        scaled = (block * (count // shape[0]) ** -0.5).half() if len(shape) else block.half()
        return scaled.repeat(-(-count // len(block)))[:count].reshape(shape).clone()

    save_file({name: values(name, shape) for name, shape in checkpoint_shapes().items()}, str(path))


@pytest.fixture(scope="module")
def loaded(comfy, tmp_path_factory):
    """MODEL, CLIP, VAE out of the stock CheckpointLoaderSimple."""
    import comfy.model_management
    import folder_paths

    import nodes

    folder = tmp_path_factory.mktemp("checkpoints")
    write_checkpoint(folder / "random_sd15.safetensors")
    folder_paths.add_model_folder_path("checkpoints", str(folder))
    yield nodes.CheckpointLoaderSimple().load_checkpoint("random_sd15.safetensors")
    comfy.model_management.unload_all_models()
    folder_paths.folder_names_and_paths["checkpoints"][0].remove(str(folder))
    (folder / "random_sd15.safetensors").unlink()


@pytest.mark.slow
def test_an_sd15_checkpoint_samples_through_the_stock_nodes(host, node, loaded):
    import comfy.model_base

    import nodes

    torch.set_num_threads(2)
    model, clip, vae = loaded[:3]
    assert type(model.model) is comfy.model_base.BaseModel and model.model.model_type.name == "EPS"
    assert sum(p.numel() for p in model.model.diffusion_model.parameters()) == 859_520_964
    positive, negative = (nodes.CLIPTextEncode().encode(clip, text)[0] for text in ("a red ball", ""))
    converted = node("D2FConvert").execute(model, "t_min", 1.0, "auto").result[0]
    latent = {"samples": torch.zeros(1, 4, 32, 32)}
    grid = {"grid": "stock scheduler", "scheduler": "simple"}
    ours, nfe = node("D2FKSampler").execute(
        converted, 7, 2, 2.0, {"solver": "euler"}, grid, positive, negative, latent, 1.0
    ).result  # fmt: skip
    assert nfe == 2
    assert torch.isfinite(ours["samples"]).all()
    stock = nodes.KSampler().sample(model, 7, 2, 2.0, "euler", "simple", positive, negative, latent, 1.0)[0]
    extent = stock["samples"].max() - stock["samples"].min()
    assert (ours["samples"] - stock["samples"]).abs().max() < 1e-3 * extent
    image = vae.decode(ours["samples"][..., :8, :8])
    assert image.shape == (1, 64, 64, 3) and torch.isfinite(image).all()
    torch.set_num_threads(1)
