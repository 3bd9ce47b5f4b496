"""ComfyUI's internals, all in one place: what differs between host versions differs here.

This module is the room's one door: the nodes use ``host.NAME`` and nothing behind it. Nothing here changes what the
host shares.
"""

from .conversion import convert
from .encoding import (
    check_models,
    clip_identity,
    encode_caption,
    encode_images,
    latent_factor,
    takes_sizes,
    vae_identity,
)
from .folders import (
    cache_folder,
    file_state,
    input_folder,
    lora_files,
    lora_folder,
    lora_path,
    may_read,
    pair_set_folder,
    pair_sets,
    pairs_folder,
    training_folder,
    user_path,
)
from .guard import with_own_guidance
from .image_condition import APPLY_NODE, CALL_KEY, CONDITION_NODE, widen, widened, with_condition
from .lora import ADAPTER_KINDS, apply_lora, lora_names
from .model import (
    NODE_NAME,
    alignment_of,
    flow_settings,
    is_converted,
    is_flow,
    latent_shape,
    latent_space,
    model_name,
    read_alignment,
    sampling_of,
)
from .model_call import as_teacher, extras_of, identity_of, in_guider, needs_negative, to_samples
from .progress import LOGGER, NodeProgress, cancelled_on_shutdown, decode, quick_picture, tell, track
from .sampling import (
    flow_sampling_in_call,
    make_sampler,
    sample,
    scheduler_names,
    stock_sigmas,
    throw_if_interrupted,
)
from .training import COMPUTE_DTYPES, BatchCondition, Condition, TrainingNetwork, clear_device, inspected, training
from .ve.levels import listed

__all__ = [
    "ADAPTER_KINDS",
    "APPLY_NODE",
    "CALL_KEY",
    "COMPUTE_DTYPES",
    "CONDITION_NODE",
    "LOGGER",
    "NODE_NAME",
    "BatchCondition",
    "Condition",
    "NodeProgress",
    "TrainingNetwork",
    "alignment_of",
    "apply_lora",
    "as_teacher",
    "cache_folder",
    "cancelled_on_shutdown",
    "check_models",
    "clear_device",
    "clip_identity",
    "convert",
    "decode",
    "encode_caption",
    "encode_images",
    "extras_of",
    "file_state",
    "flow_sampling_in_call",
    "flow_settings",
    "identity_of",
    "in_guider",
    "input_folder",
    "inspected",
    "is_converted",
    "is_flow",
    "latent_factor",
    "latent_shape",
    "latent_space",
    "listed",
    "lora_files",
    "lora_folder",
    "lora_names",
    "lora_path",
    "make_sampler",
    "may_read",
    "model_name",
    "needs_negative",
    "pair_set_folder",
    "pair_sets",
    "pairs_folder",
    "quick_picture",
    "read_alignment",
    "sample",
    "sampling_of",
    "scheduler_names",
    "stock_sigmas",
    "takes_sizes",
    "tell",
    "throw_if_interrupted",
    "to_samples",
    "track",
    "training",
    "training_folder",
    "user_path",
    "vae_identity",
    "widen",
    "widened",
    "with_condition",
    "with_own_guidance",
]
