"""LoRA files: tensors in the layout of kohya's sd-scripts, with the settings of the training in the metadata.

The name of a layer is ``lora_unet_`` and its module path, with underscores instead of dots. A layer has the tensors

    <name>.lora_down.weight (rank, in, *kernel)   <name>.lora_up.weight (out, rank, *1)   <name>.alpha ()
    <name>.diff, <name>.diff_b                    full differences of weight and bias
    <name>.lokr_*, <name>.hada_*                  LoKr and LoHa
    <name>.dora_scale (1, in, *1)                 lengths of a DoRA, beside its factors
    <name>.oft_blocks (blocks, size, size)        OFT

of its kind of adapter. ComfyUI, A1111 and diffusers read this layout; ``lora_metadata`` and ``metadata`` define the
metadata.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..fingerprints import safetensors_digest, safetensors_file_digest
from .atomic import load_tensors, save_tensors, storable
from .lora_metadata import LoraFacts, read_facts, stored_digest, write_facts
from .metadata.kohya import kohya
from .metadata.modelspec import modelspec

__all__ = [
    "DTYPES",
    "LoraFacts",
    "LoraModel",
    "check_finite",
    "layer_of",
    "load_lora",
    "lora_tensors",
    "save_lora",
    "smallest_dtype",
]

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
"""Name of a file precision -> dtype."""

# Tensors that are only valid together.
_REQUIRED_TOGETHER = (
    ("lora_down.weight", "lora_up.weight"),
    ("hada_w1_a", "hada_w1_b"),
    ("hada_w2_a", "hada_w2_b"),
    ("hada_w1_a", "hada_w2_a"),
    ("lokr_w1_a", "lokr_w1_b"),
    ("lokr_w2_a", "lokr_w2_b"),
)
_SUFFIXES = {suffix for pair in _REQUIRED_TOGETHER for suffix in pair} | {
    "alpha", "diff", "diff_b", "lora_mid.weight", "reshape_weight", "lokr_w1", "lokr_w2", "lokr_t2", "hada_t1",
    "hada_t2", "dora_scale", "oft_blocks", "rescale", "w_norm", "b_norm", "set_weight",
}  # fmt: skip


_EXACT = (".alpha", ".dora_scale")
"""Kept in float32: half precision would round a length by more than it was trained."""


class LoraModel(dict[str, Tensor]):
    """LORA_MODEL: key -> tensor, with ``facts`` about its training if they are known."""

    facts: LoraFacts | None

    def __init__(self, tensors: Mapping[str, Tensor], facts: LoraFacts | None = None) -> None:
        super().__init__(tensors)
        self.facts = facts

    def __repr__(self) -> str:
        layers = f"{len({layer_of(key) for key in self})} layers"
        if self.facts is None:
            return f"<LoRA: {layers}, without Diff2Flow metadata>"
        rank = f"rank {self.facts.rank}" if self.facts.rank else "several ranks"
        return f"<Diff2Flow LoRA: {layers}, {rank}, {self.facts.objective}, {self.facts.steps} steps>"


def layer_of(key: str) -> str:
    """The name of the layer in a key; the key itself if its suffix is unknown. Module paths may contain dots."""
    return next((key.removesuffix("." + suffix) for suffix in _SUFFIXES if key.endswith("." + suffix)), key)


def lora_tensors(adapters: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors of a LoRA file, by key.

    Args:
        adapters: module path of a layer -> adapter with ``file_tensors() -> {suffix: tensor}``.
        names: module path of a layer -> its name in the file, ``lora_unet_...``.

    Raises:
        ValueError: a layer has no name, or two layers have the same one.
    """
    unnamed = [path for path in adapters if path not in names]
    if unnamed:
        raise ValueError(f"the layer {unnamed[0]} has no name in LoRA files; leave it out of 'targets'")
    tensors: dict[str, Tensor] = {}
    for path, adapter in adapters.items():
        for suffix, tensor in adapter.file_tensors().items():
            key = f"{names[path]}.{suffix}"
            if key in tensors:
                raise ValueError(
                    f"the layer {path} has the name {names[path]} of another one; remove one from 'targets'"
                )
            tensors[key] = tensor
    return tensors


def save_lora(path: Path, lora: Mapping[str, Tensor], title: str = "", dtype: str = "fp16") -> None:
    """Write a LoRA as a safetensors file, completely or not at all.

    Args:
        path: destination; an existing file is replaced.
        lora: a LoraModel, or a plain dict of tensors, which is saved without ``diff2flow.*`` metadata.
        title: title in the metadata; the name of the file if empty.
        dtype: a name of ``DTYPES``; alphas and the lengths of a DoRA are stored as float32, integers unchanged.

    Raises:
        ValueError: the LoRA has no tensors, or weights that the dtype cannot represent.
        OSError: the file could not be written.
    """
    if dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r} of a LoRA file; allowed are {', '.join(map(repr, DTYPES))}")
    if not lora:
        raise ValueError("this LoRA has no tensors; connect the output of a trainer or a LoRA loader")
    tensors = {key: _cast(key, tensor, dtype) for key, tensor in lora.items()}
    facts = getattr(lora, "facts", None)
    digest = safetensors_digest(storable(tensors))
    title = title or Path(path).stem
    original_names = any(part in key for key in tensors for part in ("input_blocks", "middle_block", "output_blocks"))
    metadata = {**kohya(facts, title, digest), **modelspec(facts, title, digest, original_names)}
    save_tensors(path, tensors, {**metadata, **(write_facts(facts) if facts else {})})


def smallest_dtype(lora: Mapping[str, Tensor]) -> str:
    """Precision for a file: "fp16", which all programs read, or "bf16" if weights exceed its range."""
    largest = max((float(tensor.abs().max()) for tensor in lora.values() if tensor.numel()), default=0.0)
    return "fp16" if largest < torch.finfo(torch.float16).max else "bf16"


def _cast(key: str, tensor: Tensor, dtype: str) -> Tensor:
    """A tensor in the precision of the file. Raises ValueError if it is not finite, before or after."""
    plain = tensor.detach().cpu()
    if not plain.is_floating_point():
        return plain.contiguous()
    cast = plain.to(torch.float32 if key.endswith(_EXACT) else DTYPES[dtype]).contiguous()
    if not bool(torch.isfinite(plain).all()):
        raise ValueError(f"the LoRA has NaN or infinite weights in {key}; train again with a lower learning_rate")
    if not bool(torch.isfinite(cast).all()):
        raise ValueError(f"{dtype} cannot hold the weights of {key}, up to {float(plain.abs().max()):g}; save as bf16")
    return cast


def load_lora(path: Path) -> LoraModel:
    """Read a LoRA; ``facts`` is None for files of other programs.

    Raises:
        ValueError: the file is missing, damaged, from a newer version, not a complete LoRA, or has weights that are not
            finite; names it.
    """
    tensors, metadata = load_tensors(path)
    try:
        facts = read_facts(metadata)
        _check_keys(tensors, strict=facts is not None)
        _check_digest(path, metadata)
        check_finite(tensors)
    except ValueError as error:
        raise ValueError(f"{path} cannot be used as a LoRA: {error}") from error
    return LoraModel(tensors, facts)


def _check_digest(path: Path, metadata: Mapping[str, str]) -> None:
    """Raise ValueError if the bytes of the tensors are not those that were saved."""
    stored = stored_digest(metadata)
    if stored is not None and stored != safetensors_file_digest(Path(path)):
        raise ValueError(
            "its weights are not those that were saved (another SHA-256), so it was damaged or changed by another "
            "program; copy the original again, or use the file of an earlier step in output/loras/diff2flow"
        )


def check_finite(lora: Mapping[str, Tensor]) -> None:
    """Raise ValueError that names a weight or an alpha that is NaN or infinite, as it turns every picture black."""
    for key, tensor in lora.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(_widened(tensor)).all()):
            raise ValueError(f"it has NaN or infinite values in {key}; use the LoRA of an earlier step, or train again")


def _widened(tensor: Tensor) -> Tensor:
    """The tensor in a type that ``isfinite`` supports: it takes no 8-bit floats."""
    return tensor.float() if tensor.element_size() == 1 else tensor


def _check_keys(tensors: Mapping[str, Tensor], strict: bool) -> None:
    """Raise ValueError for incomplete layers, which ComfyUI's loader would silently skip.

    Args:
        tensors: tensors of the file.
        strict: whether unknown keys are errors, too.
    """
    if not tensors:
        raise ValueError("it has no tensors; use another copy of the file")
    layers: dict[str, set[str]] = {}
    for key in tensors:
        name = layer_of(key)
        if name != key:
            layers.setdefault(name, set()).add(key[len(name) + 1 :])
        elif strict:
            raise ValueError(f"it has the unknown key {key!r}; use another copy of the file")
    for name, suffixes in layers.items():
        for one, other in _REQUIRED_TOGETHER:
            if (one in suffixes) is not (other in suffixes):
                present, missing = (one, other) if one in suffixes else (other, one)
                raise ValueError(f"{name} has {present} but no {missing}; use another copy of the file")
        if "lora_down.weight" in suffixes:
            _check_ranks(name, tensors)


def _check_ranks(name: str, tensors: Mapping[str, Tensor]) -> None:
    down, up = (tensors[f"{name}.lora_{part}.weight"] for part in ("down", "up"))
    if down.ndim < 2 or up.ndim < 2 or (f"{name}.lora_mid.weight" not in tensors and down.shape[0] != up.shape[1]):
        shapes = f"{tuple(down.shape)} and {tuple(up.shape)}"
        raise ValueError(
            f"the shapes of {name} do not match: lora_down and lora_up have {shapes}; use another copy of the file"
        )
