"""ComfyUI's internals, all in one place: what differs between host versions differs here.

Rooms: ``model`` (what a MODEL is), ``conversion``, ``guard`` (around every sampling of a converted model),
``sampling`` (levels, samplers, a whole run). Nothing here changes what the host shares.
"""

from .conversion import convert
from .guard import LOGGER
from .model import NODE_NAME, is_converted, is_flow, read_alignment, sampling_of
from .sampling import (
    flow_sampling_in_call,
    make_sampler,
    sample,
    scheduler_names,
    stock_levels,
    throw_if_interrupted,
)

__all__ = [
    "LOGGER",
    "NODE_NAME",
    "convert",
    "flow_sampling_in_call",
    "is_converted",
    "is_flow",
    "make_sampler",
    "read_alignment",
    "sample",
    "sampling_of",
    "scheduler_names",
    "stock_levels",
    "throw_if_interrupted",
]
