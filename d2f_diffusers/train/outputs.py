"""What a run writes beside its state: a LoRA, or a whole model.

    <output>/<run>_step000250.safetensors                       LoRA, or with the last step the model as one file
    <output>/checkpoint-250/pytorch_lora_weights.safetensors    the LoRA again, under diffusers' name
    <output>/checkpoint-250/unet/                               the network that was trained, in diffusers' format
    <output>/model_index.json, unet/, vae/, ...                 the model as a pipeline, with the last step

Weights are averaged ones if there are any. The pipeline is float32 and has the scheduler that it came with; the single
file is half as large, has the original's names, and says in its metadata how it was trained.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d2f_core import Adapter
from d2f_data.files.lora_file import LoraFacts, LoraModel, lora_tensors, save_lora, smallest_dtype

from ..layout import layer_names, lora_names
from ..single_file import CheckpointNameError, save_checkpoint
from .network import PipelineNetwork

LORA = "pytorch_lora_weights.safetensors"


class LoraOutput:
    """Writes the LoRA of a network.

    Args:
        network: the network.
        name: of the run.
    """

    def __init__(self, network: PipelineNetwork, name: str) -> None:
        self.names, self.name = lora_names(network.unet), name

    def save(self, folder: Path, learned: Mapping[str, Adapter], facts: LoraFacts, last: bool) -> None:
        """Write the adapters, path of a layer -> adapter, into the folder of a checkpoint and beside it."""
        tensors = lora_tensors(learned, self.names)
        lora = LoraModel({key: tensor.cpu().clone() for key, tensor in tensors.items()}, facts)
        dtype = smallest_dtype(lora)
        for path in (folder.parent / f"{self.name}_step{facts.steps:06}.safetensors", folder / LORA):
            save_lora(path, lora, title=self.name, dtype=dtype)


class ModelOutput:
    """Writes a network whose own weights were trained, and at the end the model.

    Args:
        network: the network.
        name: of the run.
        say: prints a line.
    """

    def __init__(self, network: PipelineNetwork, name: str, say: Callable[[str], None]) -> None:
        self.pipeline, self.name, self.say = network.pipeline, name, say
        self.config = dict(network.unet.config)
        self.names = dict(layer_names(network.unet))

    def save(self, folder: Path, learned: Mapping[str, Tensor], facts: LoraFacts, last: bool) -> None:
        """Write the weights, name in the original -> tensor, into a checkpoint, and the model beside it."""
        unet = self._unet(learned)
        unet.save_pretrained(folder / "unet")
        if last:
            self._save_pipeline(folder.parent, unet)
            path = folder.parent / f"{self.name}_step{facts.steps:06}.safetensors"
            try:
                save_checkpoint(path, self.pipeline, unet, facts, self.name)
            except CheckpointNameError as error:
                self.say(f"no single file is written: {error}")

    def _unet(self, learned: Mapping[str, Tensor]) -> Any:
        """A network of its own with the weights."""
        from diffusers import UNet2DConditionModel

        with torch.device("meta"):
            unet: Any = UNet2DConditionModel.from_config(self.config)
        state = {}
        for name, tensor in learned.items():
            path, _, kind = name.rpartition(".")
            state[f"{self.names[path]}.{kind}"] = tensor.detach().cpu().float()
        unet.load_state_dict(state, assign=True)
        return unet

    def _save_pipeline(self, folder: Path, unet: Any) -> None:
        """Save the pipeline with another network in the place of the one that is being trained."""
        trained = self.pipeline.unet
        self.pipeline.unet = unet
        try:
            self.pipeline.save_pretrained(folder)
        finally:
            self.pipeline.unet = trained
