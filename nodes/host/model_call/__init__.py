"""A MODEL is more than its weights: what nodes have put on it, and calls to it as the host's sampler makes them.

``patches`` says what is on a MODEL, ``captions`` what is on a CONDITIONING, ``identity`` hashes both. ``device``
clears the device; ``frozen``, ``on_demand`` and ``options`` make the call of the network that training needs, and
``compiled`` makes it fast; ``guided`` runs a solver inside the host's CFG guider. ``beliefs`` says what the host takes
a MODEL for, ``probing`` asks its network.
"""

from .beliefs import Belief, belief_of, probe_candidates
from .captions import CAPTIONS_KEY, TEXT_KEY, WEIGHTS_KEY, check_caption, extras_of
from .compiled import compiler
from .device import clear_device, remarks_on_offload, remarks_on_type, unload_others
from .frozen import frozen_base, has_cross_attention
from .guided import as_teacher, in_guider, needs_negative, to_samples
from .identity import identity_of
from .on_demand import has_plain_weight
from .options import CallOptions, sigma_of
from .patches import check_trainable, names_of, patches_of, what_is_on
from .probing import NetworkCall, probe_latents, probe_network

__all__ = [
    "CAPTIONS_KEY",
    "TEXT_KEY",
    "WEIGHTS_KEY",
    "Belief",
    "CallOptions",
    "NetworkCall",
    "as_teacher",
    "belief_of",
    "check_caption",
    "check_trainable",
    "clear_device",
    "compiler",
    "extras_of",
    "frozen_base",
    "has_cross_attention",
    "has_plain_weight",
    "identity_of",
    "in_guider",
    "names_of",
    "needs_negative",
    "patches_of",
    "probe_candidates",
    "probe_latents",
    "probe_network",
    "remarks_on_offload",
    "remarks_on_type",
    "sigma_of",
    "to_samples",
    "unload_others",
    "what_is_on",
]
