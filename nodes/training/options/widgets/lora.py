"""What is added to the model: the settings of LoRA Options (Diff2Flow)."""

from comfy_api.latest import io

from .....d2f_core import TARGETS
from .... import host
from ....widgets import choice, integer, number


def lora_widgets() -> list[io.Input]:
    """Each is a field of ``TrainingPlan`` of the same name."""
    return [
        io.Combo.Input(
            "targets",
            options=list(TARGETS),
            default="attention_and_conv",
            tooltip="Layers that get adapters. attention: q, k, v and output projection. attention_and_conv: q, k, v "
            "and every convolution, the paper's choice. all: every linear and convolution layer.",
        ),
        io.String.Input(
            "target_pattern",
            default="",
            tooltip="Layers to adapt instead of those of 'targets': patterns of module paths with * and ?, separated "
            "by commas; the prefix linear: or conv: selects only such layers. Example: *.attn2.*, conv:input_blocks.*",
        ),
        choice(
            "adapter",
            host.ADAPTER_KINDS,
            "lora",
            "Kind of adapter. LoKr, LoHa and OFT are ComfyUI's own; DoRA trains the lengths of the weights apart from "
            "their directions. For OFT the rank is the size of its blocks, and alpha limits its turn.",
            advanced=False,
        ),
        number("alpha", 0.0, 0.0, 4096.0, 0.5, "Adapters are scaled by alpha / rank. 0 means alpha = rank."),
        number(
            "rank_ratio",
            0.0,
            0.0,
            1.0,
            0.05,
            "Above 0: rank of each layer = this fraction of max(in, out), instead of 'rank'. The paper uses 0.2.",
        ),
        number(
            "dropout",
            0.0,
            0.0,
            0.95,
            0.05,
            "Probability of dropping an input value of an adapter in training.",
        ),
        io.Boolean.Input(
            "full_ends",
            default=False,
            tooltip="Train all weights of the first and the last convolution, as the paper does. They are saved as "
            "full weight differences, which ComfyUI loads and diffusers does not.",
        ),
        io.String.Input(
            "layer_rules",
            multiline=True,
            default="",
            tooltip="Rank, alpha and learning rate of some layers, one rule per line: a pattern as in "
            "'target_pattern', then any of rank=, alpha= and rate= (a factor of the learning rate). The first rule "
            "that names a layer counts; rank=0 leaves it out. Example: *.attn2.* rank=32 rate=0.5",
        ),
        number(
            "text_encoder_lr",
            5e-5,
            1e-8,
            10.0,
            1e-5,
            "Learning rate of the text encoders, with 'clip' connected to the trainer. Half of the model's or less is "
            "usual.",
            1e-8,
        ),
        integer("text_encoder_rank", 0, 0, 1024, "Rank of the adapters of the text encoders; 0: that of the model's."),
    ]
