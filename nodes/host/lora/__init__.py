"""LoRAs in the host: names of their layers, applying one to a MODEL, going on from one, and the host's own kinds."""

from .apply import apply_lora, apply_to_both, has_text_layers
from .kinds import ADAPTER_KINDS
from .names import lora_names, text_names
from .start import adapters_from, text_adapters_from

__all__ = [
    "ADAPTER_KINDS",
    "adapters_from",
    "apply_lora",
    "apply_to_both",
    "has_text_layers",
    "lora_names",
    "text_adapters_from",
    "text_names",
]
