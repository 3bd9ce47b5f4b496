"""The demo model outside ComfyUI gives the pictures that it gives inside."""

import importlib

import pytest
import torch

diffusers = pytest.importorskip("diffusers")

from d2f_diffusers import Diff2FlowEulerScheduler, Diff2FlowHeunScheduler  # noqa: E402
from d2f_diffusers.cli import main  # noqa: E402
from d2f_diffusers.layout import layer_names, lora_names, original_view  # noqa: E402

PROMPTS = ["a large red sphere on the left, blue background", "a small green cube"]
CFG, STEPS = 3.0, 8


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "model"
    assert main(["export-demo", str(folder)]) == 0
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def checkpoint(comfy, pack):
    """MODEL, CLIP and VAE of the node Demo Checkpoint."""
    return importlib.import_module(f"{pack.__name__}.demo.networks").load_demo_checkpoint()


def noise(count=2):
    return torch.randn(count, 4, 12, 12, generator=torch.Generator().manual_seed(3))


def in_comfyui(pack, checkpoint, method, sigmas, start):
    """Pictures (B, H, W, 3) of the converted model through ComfyUI's own guider and sampling."""
    import comfy.samplers

    host = importlib.import_module(f"{pack.__name__}.nodes.host")
    sampler = importlib.import_module(f"{pack.__name__}.nodes.sampling.sampler")
    model, clip, vae = checkpoint
    made = sampler.D2FSampler.execute({"solver": method}).args[0]
    guider = comfy.samplers.CFGGuider(host.convert(model, start))
    pictures = []
    with torch.inference_mode():
        for row, prompt in enumerate(PROMPTS):
            positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (prompt, ""))
            guider.set_conds(positive, negative)
            guider.set_cfg(CFG)
            x = guider.sample(noise()[row : row + 1], torch.zeros(1, 4, 12, 12), made, sigmas, seed=0)
            pictures.append(vae.decode(x))
    return torch.cat(pictures)


@pytest.mark.parametrize("kind", [Diff2FlowEulerScheduler, Diff2FlowHeunScheduler])
@pytest.mark.parametrize("start", ["t_min", "noise"])
def test_text_to_image_gives_comfyuis_pictures(pipeline, pack, checkpoint, kind, start):
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config, start=start)
    made = pipeline(PROMPTS, num_inference_steps=STEPS, guidance_scale=CFG, latents=noise(), output_type="pt").images
    sigmas = torch.cat([pipeline.scheduler.sigmas[:: kind.order][:STEPS], torch.zeros(1)])
    wanted = in_comfyui(pack, checkpoint, kind.method, sigmas, start).movedim(-1, 1)
    assert wanted.shape == made.shape == (2, 3, 96, 96)
    assert wanted.std() > 0.1
    assert (made - wanted).abs().max() < 1e-3
    assert (wanted[0] - wanted[1]).abs().max() > 0.3


def test_layers_have_comfyuis_names_order_and_weights(pipeline, checkpoint):
    ours = dict(original_view(pipeline.unet).named_parameters())
    theirs = dict(checkpoint[0].model.diffusion_model.named_parameters())
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_lora_names_are_the_nodes(pipeline, pack, checkpoint):
    host = importlib.import_module(f"{pack.__name__}.nodes.host")
    theirs = host.lora_names(checkpoint[0])
    assert lora_names(pipeline.unet) == {path: theirs[path] for path in lora_names(pipeline.unet)}


def test_sdxls_layers_have_comfyuis_order(comfy, xl_parts):
    import comfy.ldm.modules.diffusionmodules.openaimodel as original
    import comfy.ops

    network = original.UNetModel(
        image_size=8, in_channels=4, out_channels=4, model_channels=32, num_res_blocks=[1, 1], channel_mult=[1, 2],
        transformer_depth=[0, 2], transformer_depth_middle=2, transformer_depth_output=[0, 0, 2, 2], num_heads=2,
        num_head_channels=-1, use_spatial_transformer=True, use_linear_in_transformer=True, context_dim=64,
        num_classes="sequential", adm_in_channels=32 + 48, operations=comfy.ops.manual_cast, device="meta",
    )  # fmt: skip
    theirs = [(name, tuple(value.shape)) for name, value in network.named_parameters()]
    ours = [(name, tuple(value.shape)) for name, value in original_view(xl_parts["unet"]).named_parameters()]
    assert ours == theirs
    assert all(name == "lora_unet_" + path.replace(".", "_") for path, name in lora_names(xl_parts["unet"]).items())


def test_a_network_of_another_kind_is_refused():
    kinds = {
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }
    network = diffusers.UNet2DModel(block_out_channels=(32, 64), norm_num_groups=8, sample_size=8, **kinds)
    with pytest.raises(ValueError, match=r"SD2\.x and SDXL do not have"):
        list(layer_names(network))


def test_the_folder_of_something_else_is_not_overwritten(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("", encoding="utf-8")
    assert main(["export-demo", str(tmp_path)]) == 1
    assert "holds no pipeline; name a new folder" in capsys.readouterr().err
