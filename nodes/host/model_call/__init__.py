"""A MODEL is more than its weights: what nodes have put on it, and calls to it as the host's sampler makes them.

``patches`` says what is on a MODEL, ``captions`` what is on a CONDITIONING, ``identity`` hashes both. ``frozen`` and
``options`` make the call of the network that training needs, and ``compiled`` makes it fast; ``guided`` runs a solver
inside the host's CFG guider.
"""

from .captions import CAPTIONS_KEY, WEIGHTS_KEY, check_caption, extras_of
from .compiled import compiler
from .frozen import frozen_base
from .guided import as_teacher, in_guider, needs_negative, to_samples
from .identity import identity_of
from .options import CallOptions, sigma_of
from .patches import check_trainable, names_of, patches_of

__all__ = [
    "CAPTIONS_KEY",
    "WEIGHTS_KEY",
    "CallOptions",
    "as_teacher",
    "check_caption",
    "check_trainable",
    "compiler",
    "extras_of",
    "frozen_base",
    "identity_of",
    "in_guider",
    "names_of",
    "needs_negative",
    "patches_of",
    "sigma_of",
    "to_samples",
]
