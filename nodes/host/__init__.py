"""ComfyUI's internals, all in one place: what differs between host versions differs here.

Rooms: ``model`` (what a MODEL is), ``conversion``, ``guard`` (around every sampling of a converted model),
``concat`` (the image condition), ``sampling`` (levels, samplers, a whole run), ``training`` (a MODEL's network to
train), ``progress`` (bar, text, previews), ``files`` (LoRA files), ``encoding`` (images and captions), ``latents``
(their shape and scale), ``replacement`` (renamed nodes). Nothing here changes what the host shares.
"""

from .adapters import ADAPTER_KINDS
from .concat import APPLY_NODE, CALL_KEY, CONDITION_NODE, widen, widened, with_condition
from .conversion import convert
from .files import apply_lora, lora_files, lora_folder, lora_names, lora_path, pair_sets, pairs_folder, training_folder
from .guard import LOGGER
from .latents import latent_shape, latent_space
from .model import NODE_NAME, is_converted, is_flow, read_alignment, sampling_of
from .progress import NodeProgress, decode, quick_picture
from .replacement import register_renames
from .sampling import (
    flow_sampling_in_call,
    make_sampler,
    sample,
    scheduler_names,
    stock_levels,
    throw_if_interrupted,
)
from .training import COMPUTE_DTYPES, Condition, TrainingNetwork, alignment_of, flow_settings, model_name, training

__all__ = [
    "ADAPTER_KINDS",
    "APPLY_NODE",
    "CALL_KEY",
    "COMPUTE_DTYPES",
    "CONDITION_NODE",
    "LOGGER",
    "NODE_NAME",
    "Condition",
    "NodeProgress",
    "TrainingNetwork",
    "alignment_of",
    "apply_lora",
    "convert",
    "decode",
    "flow_sampling_in_call",
    "flow_settings",
    "is_converted",
    "is_flow",
    "latent_shape",
    "latent_space",
    "lora_files",
    "lora_folder",
    "lora_names",
    "lora_path",
    "make_sampler",
    "model_name",
    "pair_sets",
    "pairs_folder",
    "quick_picture",
    "read_alignment",
    "register_renames",
    "sample",
    "sampling_of",
    "scheduler_names",
    "stock_levels",
    "throw_if_interrupted",
    "training",
    "training_folder",
    "widen",
    "widened",
    "with_condition",
]
