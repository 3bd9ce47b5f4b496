"""Draws the samples of a training run: the user's prompts, at the same noise every time.

A sample starts where 'Load LoRA (Diff2Flow)' lets the model start, and is integrated by Euler's method: it is the
picture that Flow KSampler (Diff2Flow) makes of the LoRA with the same seed, steps, CFG and grid. Every random number
comes from the prompt's seed, so training goes on as if nothing had been drawn.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ....d2f_core import Adapter, FlowTime, Objective, attached, flow_grid, solve
from ....d2f_core.train_settings import seeded
from ....d2f_data.plots.pil_images import to_pil
from ....d2f_data.plots.sample_sheet import picture_grid
from ....d2f_data.training.sample_files import SampleFiles
from ... import host
from ...network.caption_checks import captions_of
from ...network.cfg_velocity import CfgVelocity
from .sample_set import SampleSet


class SampleDrawer:
    """Draws and keeps the samples of a run.

    Args:
        model: the MODEL in training.
        network: its network.
        objective: the training objective, in whose coordinates the network is sampled.
        start: where sampling starts, one of ``d2f_core.STARTS``.
        given: the prompts.
        folder: folder of the run.
        say: shows a line of text on the node.

    Raises:
        ValueError: the model takes an image condition, which prompts do not have; or the prompts are encoded by another
            model's text encoder.
    """

    def __init__(
        self,
        model: Any,
        network: host.TrainingNetwork,
        objective: Objective,
        start: str,
        given: SampleSet,
        folder: Path,
        say: Callable[[str], None],
    ) -> None:
        if network.widened:
            raise ValueError(
                f"'samples' is connected, but this model takes an image condition ('{host.CONDITION_NODE}'), which a "
                "prompt does not have; disconnect 'samples': the trainer's own previews use the conditions of the set"
            )
        captions_of(network, given.encoded.values(), "samples")
        self.model, self.network, self.coordinates = model, network, objective.coordinates
        self.t_start = self.coordinates.t_min if start == "t_min" else 0.0
        self.given, self.files, self.say = given, SampleFiles(folder, given.prompts), say
        self.velocities = [self._velocity(row) for row in range(len(given.prompts))]

    def draw(self, step: int, adapters: Mapping[str, Adapter]) -> Any:
        """Draw the samples of a step that do not exist yet; all of the step's as a PIL image, None if there is none.

        A sample that cannot be drawn or written is left out, and the node says why.
        """
        latents: dict[int, Tensor] = {}
        rows = self.files.missing(step)
        with torch.no_grad(), attached(self.network.module, adapters):
            for number, row in enumerate(rows, 1):
                self.say(f"step {step}: drawing sample {number} of {len(rows)}")
                with host.tolerated(self._report(row, step)):
                    latents[row] = self._solve(row)
        for row, latent in latents.items():
            with host.tolerated(self._report(row, step)):
                self.files.save(row, step, self._decode(latent))
        if latents:
            host.unload_others(self.model)  # the VAE
            with host.tolerated(lambda error: self._remark(f"the contact sheet could not be written ({error})")):
                self.files.save_sheet()
        pictures = self.files.of_step(step)
        return picture_grid(pictures) if pictures else None

    def _shape(self, row: int) -> tuple[int, int, int]:
        """Shape (C, h, w) of the latent of a prompt."""
        prompt, factor = self.given.prompts[row], host.latent_factor(self.given.vae)
        return self.network.channels, prompt.height // factor, prompt.width // factor

    def _velocity(self, row: int) -> CfgVelocity:
        prompt, encoded = self.given.prompts[row], self.given.encoded
        condition = self.network.condition(encoded[prompt.text], self._shape(row))
        null = None if prompt.cfg == 1 else self.network.condition(encoded[prompt.negative], self._shape(row))
        return CfgVelocity(self.network, self.coordinates, condition, null, prompt.cfg)

    def _solve(self, row: int) -> Tensor:
        """The latent of a prompt, (1, C, h, w), in the model's scale."""
        prompt = self.given.prompts[row]
        settings = {"shift": prompt.shift, "mean": prompt.mean, "std": prompt.std}
        times = flow_grid(prompt.grid, prompt.steps, t_start=self.t_start, **settings)
        noise = torch.randn((1, *self._shape(row)), generator=torch.Generator().manual_seed(prompt.seed))
        # As in the sampler, noise stands for a whole sample of the diffusion, with its deviation.
        state = noise.to(self.network.device) * float(FlowTime.of(self.t_start).norm)
        return solve(self.velocities[row], state, times, "euler")

    def _decode(self, latent: Tensor) -> Any:
        """The picture of a latent; some VAEs draw from the global generators."""
        with seeded(0, self.network.device):
            return to_pil(host.decode(self.given.vae, self.network.samples(latent)))[0]

    def _report(self, row: int, step: int) -> Callable[[Exception], None]:
        def report(error: Exception) -> None:
            host.LOGGER.warning("sample %d could not be drawn at step %d", row + 1, step, exc_info=error)
            reason = (str(error).splitlines() or [""])[0][:200]
            self._remark(f"sample {row + 1} could not be drawn ({type(error).__name__}: {reason})")

        return report

    def _remark(self, text: str) -> None:
        """Say it on the node in every line from now on, once."""
        if text not in self.network.remarks:
            self.network.remarks.append(text)
