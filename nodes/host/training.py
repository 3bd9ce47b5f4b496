"""The network of a MODEL, ready for training: loaded, as a frozen copy, with its conditioning kwargs prepared.

It is called as the host's sampler calls it, through ``apply_model`` with complete ``transformer_options``, so that what
nodes have put on the MODEL acts in training, too. Functions of guidance (CFG patches) have no part in one call of the
network and are left out. Nothing of the host's is changed: hooks and recomputed blocks sit on module objects of our own
over the host's weights.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import comfy.model_management
import comfy.sampler_helpers
import comfy.samplers
import torch
from torch import Tensor

from ...d2f_core import for_autograd
from ...d2f_core.train_settings import seeded
from .image_condition import FIRST_CONV, sort_patches, widened
from .model import alignment_of
from .model_call import (
    CallOptions,
    check_caption,
    check_trainable,
    clear_device,
    compiler,
    frozen_base,
    has_cross_attention,
    names_of,
    remarks_on_offload,
    remarks_on_type,
    sigma_of,
)

# Conditioning kwargs of the network, besides input and timestep: name -> tensor (B, ...).
Condition = Mapping[str, Tensor]
# Those of a batch; where its texts do not fit together, (rows of the batch, their kwargs) for each call.
BatchCondition = Condition | Sequence[tuple[list[int], Condition]]

COMPUTE_DTYPES: Mapping[str, torch.dtype | None] = MappingProxyType(
    {"auto": None, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
)

TRAINER_NODE = "LoRA Trainer (Diff2Flow)"


class TrainingNetwork:
    """``(network_input, timestep, condition) -> model_output`` for ``d2f_core.Trainer``.

    Attributes:
        unet, module: frozen copy of the diffusion network, and the layers to which adapters are attached: it, or more.
        alignment: schedule and prediction type of the network.
        device, dtype: device and data type of the computation.
        channels: number of channels of the latents.
        widened: paths of the convolutions in ``module`` that are wider than the checkpoint's, for an image condition.
        cross_attention: whether the image attends to the text alone, so that repeating the text changes nothing.
        compiled: whether its blocks are compiled.
        remarks: sentences about it for the user, such as why it is not; more may come with the first call.
    """

    def __init__(
        self,
        model: Any,
        dtype: torch.dtype | None,
        recompute: bool,
        node: str,
        compiled: bool = False,
        offload: bool = False,
    ) -> None:
        self.alignment = alignment_of(model, node)
        self.remarks: list[str] = remarks_on_offload(model, compiled) if offload else []
        found = compiler(model.load_device, self.remarks) if compiled and not offload else None
        self.compiled = found is not None
        self._base = frozen_base(model, dtype, recompute, found, offload)
        self._options, self._sigma, self._patched_by = CallOptions(model), sigma_of(model), names_of(model)
        self.module = self.unet = self._base.diffusion_model
        self.device = model.load_device
        self.dtype = self._base.get_dtype_inference()
        self.remarks += remarks_on_type(self.device, self.dtype)
        self.channels: int = self._base.latent_format.latent_channels
        self.widened: tuple[str, ...] = (FIRST_CONV,) if widened(model) else ()
        self.cross_attention = has_cross_attention(self.module)

    def __call__(self, network_input: Tensor, timestep: Tensor, condition: BatchCondition, role: int = 0) -> Tensor:
        """The network's answer, (B, *), float32.

        Args:
            network_input, timestep: (B, *) and (B,).
            condition: conditioning kwargs of the batch.
            role: 0 for a positive prompt, 1 for a negative one; patches may ask.
        """
        calls = [(list(range(len(timestep))), condition)] if isinstance(condition, Mapping) else list(condition)
        if self._options.change_calls:  # the host never mixes sigmas in a call, so patches look at the first
            calls = [one for rows, kwargs in calls for one in _of_one_timestep(rows, kwargs, timestep.tolist())]
        if len(calls) == 1:
            return self._call(network_input, timestep, calls[0][1], role)
        outputs = [self._call(network_input[rows], timestep[rows], kwargs, role) for rows, kwargs in calls]
        order = torch.tensor([row for rows, _ in calls for row in rows])
        return torch.cat(outputs)[order.argsort().to(network_input.device)]

    def _call(self, x: Tensor, timestep: Tensor, condition: Condition, role: int) -> Tensor:
        """One call, as the host's ``calc_cond_batch`` makes it."""
        sigma = self._sigma(timestep).to(self.device)
        self._base.model_sampling.given = timestep.to(self.device, torch.float32)
        kwargs: dict[str, Any] = {name: value.to(self.device) for name, value in condition.items()}
        kwargs["transformer_options"] = self._options.of_call(sigma, role)
        if self._options.wrapper is None:
            return self._base.apply_model(x, sigma, **kwargs)
        given = {"input": x, "timestep": sigma, "c": kwargs, "cond_or_uncond": [role]}
        return self._options.wrapper(self._base.apply_model, given)

    def latents(self, samples: Tensor) -> Tensor:
        """Samples of a LATENT in the model's own scale, on its device, float32."""
        return self._base.process_latent_in(for_autograd(samples).to(self.device, torch.float32))

    def samples(self, latents: Tensor) -> Tensor:
        """The inverse of ``latents``, on the CPU."""
        return self._base.process_latent_out(latents).cpu()

    def check_caption(self, options: Mapping[str, Any], what: str) -> None:
        """Raise ValueError if an entry of a CONDITIONING holds what cannot be learned; names the input ``what``."""
        check_caption(options, what, takes_image=bool(self._base.concat_keys))

    def check_patches(self, shape: Sequence[int], condition: Condition) -> None:
        """Try a call and its gradient if nodes have changed the network's calls, before a step is trained.

        Args:
            shape: of one latent, (C, h, w).
            condition: conditioning kwargs of one item, tensors (1, ...).

        Raises:
            ValueError: names the nodes, the error, and the remedy.
        """
        if not self._patched_by:
            return
        timesteps = torch.linspace(self.alignment.schedule.first, self.alignment.schedule.last, 3)
        x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)).to(self.device)
        batch = {name: value.repeat(3, *(1,) * (value.ndim - 1)) for name, value in condition.items()}
        x.requires_grad_()
        try:
            with torch.enable_grad(), seeded(0, self.device):
                (slope,) = torch.autograd.grad(self(x * 1, timesteps, batch).mean(), x)
        except (comfy.model_management.InterruptProcessingException, comfy.model_management.OOM_EXCEPTION):
            raise
        except Exception as error:
            raise ValueError(self._untrainable(f"{type(error).__name__}: {error}")) from error
        if not bool(torch.isfinite(slope).all()):
            raise ValueError(self._untrainable("the gradient is NaN or infinite"))

    def _untrainable(self, reason: str) -> str:
        nodes = ", ".join(self._patched_by)
        return (
            f"this model cannot be trained with what nodes have put on it ({nodes}): {reason}. Connect the trainer to "
            "the model before those nodes, and use them when you sample"
        )

    def condition(self, conditioning: Any, shape: Sequence[int]) -> Condition:
        """Conditioning kwargs of a CONDITIONING's first entry, for latents (C, h, w): tensors (1, ...) on the CPU.

        That of a widened network has "c_concat", zeros if the entry holds no latent for it.
        """
        tensors = self._kwargs(conditioning, shape)
        return {name: for_autograd(tensor).cpu() for name, tensor in tensors.items()}

    def _kwargs(self, conditioning: Any, shape: Sequence[int]) -> Condition:
        noise = torch.zeros(1, *shape)
        cond = comfy.sampler_helpers.convert_cond(conditioning[:1])
        encoded = comfy.samplers.encode_model_conds(
            self._base.extra_conds, cond, noise, noise.device, "positive", latent_image=noise
        )
        conds = encoded[0]["model_conds"]
        return {name: conds[name].process_cond(batch_size=1, area=None).cond for name in sorted(conds)}


@contextmanager
def training(
    model: Any, dtype: str = "auto", recompute: bool = False, compiled: bool = False, offload: bool = False
) -> Iterator[TrainingNetwork]:
    """A MODEL ready for training, outside of inference mode; the host is restored afterwards, also after an error.

    Text encoders, VAEs and other models leave the device first.

    Args:
        model: MODEL, diffusion, converted or native flow matching.
        dtype: compute type, one of ``COMPUTE_DTYPES``; "auto" takes the model's own.
        recompute: recompute blocks in the backward pass, to save memory.
        compiled: compile the blocks, where that works.
        offload: keep the frozen weights in the main memory, and bring each to the device when it is used.

    Raises:
        ValueError: the MODEL cannot be trained; names what is on it.
    """
    check_trainable(model)
    management = comfy.model_management
    before = getattr(management, "in_training", None)
    try:
        with inspected(model, dtype, recompute, TRAINER_NODE, compiled, offload) as network:
            management.in_training = True
            yield network
    finally:
        if before is None:
            vars(management).pop("in_training", None)
        else:
            management.in_training = before


@contextmanager
def inspected(
    model: Any,
    dtype: str = "auto",
    recompute: bool = False,
    node: str = "this node",
    compiled: bool = False,
    offload: bool = False,
) -> Iterator[TrainingNetwork]:
    """The network of any MODEL, outside of inference mode, to read its weights and to encode conditionings with.

    What takes the place of layers while the MODEL is loaded (a bypass LoRA) is not part of it. Arguments as for
    ``training``; ``node`` is the node that needs it, for errors.
    """
    alignment_of(model, node)  # refuses before anything is loaded
    if widened(model):
        sort_patches(model)
    clear_device(model, offload)
    with torch.inference_mode(False):
        yield TrainingNetwork(model, COMPUTE_DTYPES[dtype], recompute, node, compiled, offload)


def _of_one_timestep(rows: list[int], kwargs: Condition, timesteps: list[float]) -> list[tuple[list[int], Condition]]:
    """A call split into calls of one timestep each."""
    groups: dict[float, list[int]] = {}
    for place, row in enumerate(rows):
        groups.setdefault(timesteps[row], []).append(place)
    if len(groups) == 1:
        return [(rows, kwargs)]
    return [
        ([rows[place] for place in places], {name: value[places] for name, value in kwargs.items()})
        for places in groups.values()
    ]
