"""Small native flow matching MODELs with random weights, built from the host's own classes."""

from typing import Any

import torch

KINDS = ("unet", "sd3", "auraflow", "flux")
# Latent channels, width of the text's tokens and of its pooled embedding (0: none), timestep of pure noise.
SHAPES = {
    "unet": (4, 16, 0, 1000.0),
    "sd3": (16, 32, 24, 1000.0),
    "auraflow": (4, 32, 0, 1.0),
    "flux": (16, 32, 24, 1.0),
}


def make(kind: str, build: Any) -> Any:
    """A MODEL of a kind; `build` is that of conftest, for the UNet."""
    if kind == "unet":
        return build(flow=True)
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    cls, settings = {
        "sd3": (comfy.supported_models.SD3, _sd3()),
        "auraflow": (comfy.supported_models.AuraFlow, _auraflow()),
        "flux": (comfy.supported_models.Flux, _flux()),
    }[kind]
    config = cls(settings)
    config.set_inference_dtype(torch.float32, None)
    base = {"sd3": comfy.model_base.SD3, "auraflow": comfy.model_base.AuraFlow, "flux": comfy.model_base.Flux}[kind]
    model = base(config)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.diffusion_model.named_parameters():
        is_scale = parameter.ndim == 1 and name.endswith(("weight", "scale"))
        values = torch.randn(parameter.shape, generator=generator) * (0.5 / max(1, parameter[0].numel()) ** 0.5)
        parameter.data.copy_(1 + 0.1 * values if is_scale else values)
    for buffer in model.diffusion_model.buffers():
        buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.1)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


def conditionings(kind: str, tokens: int = 7) -> tuple[Any, Any]:
    """Positive and negative CONDITIONING for a kind."""
    generator = torch.Generator().manual_seed(1)
    _, width, pooled, _ = SHAPES[kind]

    def one() -> Any:
        options = {"pooled_output": torch.randn(1, pooled, generator=generator)} if pooled else {}
        return [[torch.randn(1, tokens, width, generator=generator), options]]

    return one(), one()


def _sd3() -> dict[str, Any]:
    return {
        "input_size": None,
        "in_channels": 16,
        "patch_size": 2,
        "depth": 1,
        "num_blocks": 2,
        "adm_in_channels": 24,
        "context_size": 32,
        "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 32, "out_features": 64}},
        "pos_embed_scaling_factor": None,
        "pos_embed_max_size": 16,
        "num_patches": 256,
        "qk_norm": "rms",
    }


def _auraflow() -> dict[str, Any]:
    return {
        "cond_seq_dim": 32,
        "dim": 64,
        "n_heads": 2,
        "n_layers": 2,
        "n_double_layers": 1,
        "global_conddim": 64,
        "max_seq": 256,
    }


def _flux() -> dict[str, Any]:
    return {
        "image_model": "flux",
        "in_channels": 16,
        "out_channels": 16,
        "patch_size": 2,
        "vec_in_dim": 24,
        "context_in_dim": 32,
        "hidden_size": 64,
        "mlp_ratio": 2.0,
        "num_heads": 2,
        "depth": 1,
        "depth_single_blocks": 1,
        "axes_dim": [8, 12, 12],
        "theta": 10000,
        "qkv_bias": True,
        "guidance_embed": True,
        "txt_ids_dims": [],
    }
