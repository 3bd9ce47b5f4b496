"""One network under two names: the UNet of diffusers and the layout of the original checkpoints, which ComfyUI has.

    diffusers    down_blocks.0.resnets.1.conv1        mid_block.attentions.0    up_blocks.2.upsamplers.0.conv
    original     input_blocks.2.0.in_layers.2         middle_block.1            output_blocks.8.2.conv

Settings of a training name layers, adapters draw their first values, and weights are hashed in the original's names and
order. So ``original_view`` puts the layers of a UNet, the very same objects, into a tree of the original's form.
"""

from collections.abc import Iterator

from torch import nn

Names = Iterator[tuple[str, str]]
"""(path in the original, path in diffusers)"""

_RESNET = (
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
)
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_TRANSFORMER = (
    *(f"attn1.{name}" for name in _ATTENTION),
    "ff.net.0.proj",
    "ff.net.2",
    *(f"attn2.{name}" for name in _ATTENTION),
    "norm2",
    "norm1",
    "norm3",
)
SDXL_EMBEDDING = "text_time"
"""``addition_embed_type`` of the UNets whose LoRA files have the original's names, SDXL's."""


def layer_names(unet: nn.Module) -> Names:
    """Every layer with weights, in the order in which the original's network has them.

    Raises:
        ValueError: the network has a layer that those of Stable Diffusion do not have.
    """
    present = {path for path, layer in unet.named_modules() if next(layer.parameters(recurse=False), None) is not None}
    named = [(ours, theirs) for ours, theirs in _all_names(unet) if theirs in present]
    unknown = sorted(present - {theirs for _, theirs in named})
    if unknown:
        raise ValueError(
            f"{type(unet).__name__} has the layer {unknown[0]}, which UNets of SD1.5, SD2.x and SDXL do not have; use "
            "one of those"
        )
    yield from named


def original_view(unet: nn.Module) -> nn.Module:
    """A tree of modules in the original's form over the layers of a UNet; to change them is to change the UNet."""
    root = nn.Module()
    for ours, theirs in layer_names(unet):
        *folders, name = ours.split(".")
        place = root
        for folder in folders:
            if folder not in place._modules:
                place.add_module(folder, nn.Module())
            place = place.get_submodule(folder)
        place.add_module(name, unet.get_submodule(theirs))
    return root


def lora_names(unet: nn.Module) -> dict[str, str]:
    """Path of a layer in the original -> its name in a LoRA file, ``lora_unet_...``, as the training node names it."""
    original = getattr(unet, "config", {}).get("addition_embed_type") == SDXL_EMBEDDING
    names = {ours: ours if original else theirs for ours, theirs in layer_names(unet)}
    return {ours: "lora_unet_" + name.replace(".", "_") for ours, name in names.items()}


def _all_names(unet: nn.Module) -> Names:
    for number in (1, 2):
        yield f"time_embed.{2 * number - 2}", f"time_embedding.linear_{number}"
    for number in (1, 2):
        yield f"label_emb.0.{2 * number - 2}", f"add_embedding.linear_{number}"
    yield "input_blocks.0.0", "conv_in"
    yield from _down(unet)
    yield from _resnet("middle_block.0", "mid_block.resnets.0")
    yield from _transformer(unet, "middle_block.1", "mid_block.attentions.0")
    yield from _resnet("middle_block.2", "mid_block.resnets.1")
    yield from _up(unet)
    yield "out.0", "conv_norm_out"
    yield "out.2", "conv_out"


def _down(unet: nn.Module) -> Names:
    block = 0
    for level, _ in enumerate(unet.get_submodule("down_blocks").children()):
        for row in range(_length(unet, f"down_blocks.{level}.resnets")):
            block += 1
            yield from _resnet(f"input_blocks.{block}.0", f"down_blocks.{level}.resnets.{row}")
            yield from _transformer(unet, f"input_blocks.{block}.1", f"down_blocks.{level}.attentions.{row}")
        block += 1
        yield f"input_blocks.{block}.0.op", f"down_blocks.{level}.downsamplers.0.conv"


def _up(unet: nn.Module) -> Names:
    block = 0
    for level, _ in enumerate(unet.get_submodule("up_blocks").children()):
        rows = _length(unet, f"up_blocks.{level}.resnets")
        for row in range(rows):
            attention = f"up_blocks.{level}.attentions.{row}"
            yield from _resnet(f"output_blocks.{block}.0", f"up_blocks.{level}.resnets.{row}")
            yield from _transformer(unet, f"output_blocks.{block}.1", attention)
            if row == rows - 1:
                place = 2 if _has(unet, attention) else 1
                yield f"output_blocks.{block}.{place}.conv", f"up_blocks.{level}.upsamplers.0.conv"
            block += 1


def _resnet(ours: str, theirs: str) -> Names:
    for one, other in _RESNET:
        yield f"{ours}.{one}", f"{theirs}.{other}"


def _transformer(unet: nn.Module, ours: str, theirs: str) -> Names:
    for name in ("norm", "proj_in"):
        yield f"{ours}.{name}", f"{theirs}.{name}"
    for depth in range(_length(unet, f"{theirs}.transformer_blocks")):
        for name in _TRANSFORMER:
            path = f"transformer_blocks.{depth}.{name}"
            yield f"{ours}.{path}", f"{theirs}.{path}"
    yield f"{ours}.proj_out", f"{theirs}.proj_out"


def _has(unet: nn.Module, path: str) -> bool:
    try:
        unet.get_submodule(path)
    except AttributeError:
        return False
    return True


def _length(unet: nn.Module, path: str) -> int:
    return len(list(unet.get_submodule(path).children())) if _has(unet, path) else 0
