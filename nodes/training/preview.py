"""Previews: a few items of the training set, sampled with the current adapters."""

from collections.abc import Mapping
from typing import Any

import torch

from ...d2f_core import Adapter, Objective, attached, flow_grid, solve
from ...d2f_data.plots.pil_images import side_by_side, to_pil
from .. import host
from ..network.cfg_velocity import CfgVelocity
from ..network.conditionings import join
from .items import TrainingItems

STEPS = 10
PICTURES = 4


class Preview:
    """Samples the same items from the same noise every time.

    Args:
        model: the MODEL, for approximate pictures without a VAE.
        network: its network.
        objective: the training objective, in whose coordinates the network is sampled.
        items: the training set; items of the first shape are sampled.
        vae: VAE that decodes the previews; None for approximate ones.
        cfg: guidance scale, with the null condition; 1 disables guidance.
        seed: seed of the noise.
    """

    def __init__(
        self,
        model: Any,
        network: host.TrainingNetwork,
        objective: Objective,
        items: TrainingItems,
        vae: Any,
        cfg: float,
        seed: int,
    ) -> None:
        self.model, self.network, self.vae = model, network, vae
        group = items.groups[0]
        chosen = [group[i * len(group) // PICTURES] for i in range(PICTURES)] if len(group) > PICTURES else list(group)
        condition = join([items.condition(item) for item in chosen], network.cross_attention)
        nulls = [items.condition(item, drop=True) for item in chosen]
        null = join(nulls, network.cross_attention) if items.has_null else None
        self.velocity = CfgVelocity(network, objective.coordinates, condition, null, cfg)
        shape = (len(chosen), *items.shape)
        self.noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(network.device)

    @torch.no_grad()
    def draw(self, adapters: Mapping[str, Adapter]) -> Any:
        """A PIL picture of the items side by side; None if there is no way to make one."""
        with attached(self.network.module, adapters):
            latents = solve(self.velocity, self.noise, flow_grid("uniform", STEPS), "euler")
        if self.vae is not None:
            return side_by_side(to_pil(host.decode(self.vae, self.network.samples(latents))))
        pictures = [host.quick_picture(self.model, latent[None]) for latent in latents]
        return None if pictures[0] is None else side_by_side(pictures)
