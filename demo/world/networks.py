"""The checkpoint of the second world: the classes of `demo/networks.py` with its sizes, words and files.

UNet: 64 channels at 16x16 and 128 at 8x8, attention at both, 5.3 M parameters. Text: four layers of 128, as captions
name up to three solids. Pictures are 128x128, latents 4x16x16.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from ..networks import (
    CLIP_CONFIG,
    UNET_CONFIG,
    DemoClip,
    DemoConfig,
    DemoLatentFormat,
    DemoModel,
    DemoTextModel,
    DemoTokenizer,
    DemoWordTokenizer,
    FlowDemoConfig,
    VDemoConfig,
    load_demo_checkpoint,
)
from ..worlds import SECOND

IMAGE_SIZE, MAX_TOKENS, VOCAB_SIZE = 128, 48, 891
END_TOKEN = VOCAB_SIZE - 1


class StillLifeLatentFormat(DemoLatentFormat):
    """Preview colours of this world's autoencoder."""

    weights = SECOND.weights


class StillLifeWordTokenizer(DemoWordTokenizer):
    """This world's vocabulary."""

    folder, tokens = SECOND.tokenizer, MAX_TOKENS


class StillLifeTokenizer(DemoTokenizer):
    """Tokenizer of a single CLIP."""

    words = StillLifeWordTokenizer


class StillLifeClip(DemoClip):
    """The text encoder."""

    config = MappingProxyType(
        CLIP_CONFIG
        | {"vocab_size": VOCAB_SIZE, "num_hidden_layers": 4, "max_position_embeddings": MAX_TOKENS,
           "eos_token_id": END_TOKEN}
    )  # fmt: skip


class StillLifeTextModel(DemoTextModel):
    """The text encoder under the interface that CLIPTextEncode uses."""

    tokenizer, encoder = StillLifeTokenizer, StillLifeClip


class StillLifeConfig(DemoConfig):
    """eps-prediction."""

    unet_config = UNET_CONFIG | {
        "image_size": IMAGE_SIZE // 8, "num_res_blocks": [1, 1], "channel_mult": [1, 2], "transformer_depth": [1, 2],
        "transformer_depth_middle": 2, "transformer_depth_output": [1, 1, 1, 2],
    }  # fmt: skip
    latent_format = StillLifeLatentFormat

    @staticmethod
    def text_model() -> type[DemoTextModel]:
        """Class of the text encoder."""
        return StillLifeTextModel


class FlowStillLifeConfig(StillLifeConfig, FlowDemoConfig):
    """Native flow matching."""


class VStillLifeConfig(StillLifeConfig, VDemoConfig):
    """v-prediction."""


CONFIG = StillLifeConfig
MODELS: Mapping[str, DemoModel] = MappingProxyType(
    {
        "eps": DemoModel("unet", StillLifeConfig),
        "flow": DemoModel("unet_flow", FlowStillLifeConfig),
        "v": DemoModel("unet_v", VStillLifeConfig),
    }
)


def load_checkpoint(prediction: str = "eps", folder: Path = SECOND.weights) -> tuple:
    """(MODEL, CLIP, VAE) of the network with that prediction, as of `demo.networks.load_demo_checkpoint`."""
    return load_demo_checkpoint(folder, MODELS[prediction])
