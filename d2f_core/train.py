"""The training loop: a generator that yields one record per step.

Step k minimises the objective's loss over what is trained, adapters or the network's own weights (``trained``),

    x0 from the data,  eps ~ N(0, 1),  t ~ density,  loss = mean_i w(t_i) |prediction_i - target_i|^2

Progress, cancelling, previews and saving are the caller's: it stops iterating, or looks at the network between
steps, when no hook of ours is on it. Every random number of step k comes from generators seeded by (seed, k), and
the order of the data from (seed, epoch). So a run has no random state to keep, k steps, a resume and N - k
steps are N steps bit for bit, and the global generators are left as they were.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .adapter import Adapter
from .batches import Batch, BatchOrder, TrainingData, derive_seed, in_epoch
from .consistency import later_times, line_to
from .density import TimeDensity
from .loss import Interpolant, Objective
from .processes import OneProcess, Processes, share, sum_gradients, sum_loss
from .train_settings import NonFiniteLossError, StepRecord, TrainSettings, seeded
from .trained import Trained, TrainedAdapters, TrainedNetwork


class Trainer:
    """Trains a network; see the module's head.

    Args:
        module: the network: frozen, onto whose layers adapters are put, or with parameters that require gradients.
        network: ``(network_input (B, *), timestep (B,) on the CPU, condition) -> output (B, *)``, calling ``module``.
        adapters: path of a layer -> its adapter; None to train the parameters of ``module`` themselves.
        objective, density: what is learned, and at which flow times.
        data: where batches come from.
        optimizer: over what is trained.
        schedule: its learning rate schedule, stepped once per step; None for a constant learning rate.
        settings: how the run goes.
        processes: those that train the run together; None for this one alone.
    """

    def __init__(
        self,
        module: nn.Module,
        network: Callable[[Tensor, Tensor, Any], Tensor],
        adapters: Mapping[str, Adapter] | None,
        objective: Objective,
        density: TimeDensity,
        data: TrainingData,
        optimizer: torch.optim.Optimizer,
        schedule: Any | None = None,
        settings: TrainSettings | None = None,
        processes: Processes | None = None,
    ) -> None:
        self.module, self.network = module, network
        self.trained: Trained = TrainedNetwork(module) if adapters is None else TrainedAdapters(module, adapters)
        self.objective, self.density, self.data = objective, density, data
        self.optimizer, self.schedule, self.settings = optimizer, schedule, settings or TrainSettings()
        self.processes = processes or OneProcess()
        self.share = share(self.settings.accumulation, self.processes)
        self.order = BatchOrder(data.groups, self.settings.batch_size, self.settings.seed)
        self.weights = self.trained.weights
        self.parameters = [p for p in self.weights.parameters() if p.requires_grad]
        self.device = self.parameters[0].device
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.settings.scale_gradients)
        self.weights.eval()  # until a step switches to training, optimizers with modes included
        decay = self.settings.ema
        self.average = AveragedModel(self.weights, multi_avg_fn=get_ema_multi_avg_fn(decay)) if decay else None
        self.step = 0

    def run(self, steps: int) -> Iterator[StepRecord]:
        """Train ``steps`` more steps.

        Raises:
            NonFiniteLossError: names the step; the weights are those of the step before.
            ValueError: after the first step, names what had no gradient.
        """
        for _ in range(steps):
            yield self._step()

    def _step(self) -> StepRecord:
        start = time.perf_counter()
        if not self.weights.training:
            self._learn(True)
        self.optimizer.zero_grad(set_to_none=True)
        batches = self.settings.accumulation
        losses = torch.stack([self._backward(self.step * batches + i) for i in self.share])
        if self.step == 0:
            self.trained.check_gradients()
        sum_gradients(self.parameters, self.processes)
        *parts, norm = torch.cat([losses, self._clip()]).tolist()  # nothing is waited for before
        if not all(map(math.isfinite, parts)):
            raise NonFiniteLossError(self._broken("loss"))
        if not (math.isfinite(norm) or self.scaler.is_enabled()):
            raise NonFiniteLossError(self._broken("gradient"))
        loss = sum_loss(sum(parts), self.processes)
        learning_rate = float(self.optimizer.param_groups[0]["lr"])
        self._update()
        self.step += 1
        return StepRecord(self.step, loss, norm, learning_rate, time.perf_counter() - start)

    def _learn(self, on: bool) -> None:
        """Training or evaluation mode of what is trained, and of optimizers that have modes (schedule-free)."""
        self.weights.train(on)
        switch = getattr(self.optimizer, "train" if on else "eval", None)
        if switch is not None:
            switch()

    def _clip(self) -> Tensor:
        """Clip the gradient; its norm before that, (1,), on the device."""
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.settings.clip or math.inf)
        return (norm.full_tensor() if hasattr(norm, "full_tensor") else norm).detach().reshape(1)

    def _update(self) -> None:
        """One step of the optimizer, with what follows it."""
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.schedule is not None:
            self.schedule.step()
        if self.average is not None:
            self.average.update_parameters(self.weights)

    def _backward(self, index: int) -> Tensor:
        """Add the gradient of batch number ``index`` of the run; its share of the step's loss, (), on the device."""
        generator = torch.Generator().manual_seed(derive_seed(self.settings.seed, index))
        items = self.order.items(index)
        drop = torch.rand(len(items), generator=generator) < self.settings.drop_condition
        data = in_epoch(self.data, self.settings.seed, index // self.order.per_epoch)
        batch = data.batch(items, drop.tolist())
        windows = 1 if self.objective.is_consistent else batch.windows
        t = self.density.sample(len(items), self.objective.coordinates, generator, windows)
        # Dropout, and blocks that recompute it, draw from the global generators.
        with seeded(derive_seed(self.settings.seed, ~index), self.device):
            pair = self._pair(batch, t, generator)
            with self.trained.on(self.weights), torch.enable_grad():
                loss = self._loss(batch, pair).mean() / self.settings.accumulation
                self.scaler.scale(loss).backward()
        return loss.detach()

    def _loss(self, batch: Batch, pair: Interpolant) -> Tensor:
        given = self.objective.model_input(pair)
        output = self.network(given.network_input, given.timestep, batch.condition)
        loss = self.objective.loss(output, pair, batch.mask)
        return loss if batch.weight is None else loss * batch.weight.to(loss)

    @torch.no_grad()
    def validate(self, data: TrainingData) -> float:
        """Mean loss of the weights to be saved over ``data``, at the same flow times and noise whenever it is asked."""
        total, count, weights = 0.0, sum(map(len, data.groups)), self._to_use()
        for group in data.groups:
            for at in range(0, len(group), self.settings.batch_size):
                items = group[at : at + self.settings.batch_size]
                place = (torch.arange(len(items), dtype=torch.float64) + at + 0.5) / len(group)
                t = self.density.low + (self.density.high - self.density.low) * place
                generator = torch.Generator().manual_seed(derive_seed(self.settings.seed, items[0]))
                batch = data.batch(items, [False] * len(items))
                pair = self._pair(batch, t, generator)
                with self.trained.on(weights):
                    total += float(self._loss(batch, pair).sum())
        return total / count

    def _pair(self, batch: Batch, t: Tensor, generator: torch.Generator) -> Interpolant:
        noise = torch.randn(batch.x0.shape, generator=generator) if batch.eps is None else batch.eps
        eps = noise.to(batch.x0)
        pair = batch.on_path(eps, t)
        if not self.objective.is_consistent:
            return pair
        later = batch.on_path(eps, later_times(t, generator))
        return line_to(self._foretold(later, batch.condition), pair)

    @torch.no_grad()
    def _foretold(self, pair: Interpolant, condition: Any) -> Tensor:
        """The end of the path that the averaged weights (without an average, those of now) see at a pair, (B, *)."""
        weights = self.weights if self.average is None else self.average.module
        mode = weights.training
        given = self.objective.model_input(pair)
        with self.trained.on(weights.eval()):
            output = self.network(given.network_input, given.timestep, condition)
        weights.train(mode)
        return self.objective.coordinates.denoised(output, pair.x_fm, pair.t)

    def _broken(self, what: str) -> str:
        return (
            f"the {what} became NaN or infinite at step {self.step + 1}; the weights of step {self.step} are kept. "
            "Lower the learning rate, clip the gradient, or compute in bfloat16 or float32 instead of float16"
        )

    def state_dict(self) -> dict[str, Any]:
        """All that a resume needs: weights, average, optimizer, schedule and step."""
        return {
            "step": self.step,
            "weights": self.weights.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        self.step = state["step"]
        self.weights.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])

    def averaged(self) -> dict[str, Any]:
        """Path -> adapter, or name -> weight, to use or save: the averaged ones if there are any."""
        return self.trained.named(self._to_use())

    def in_use(self) -> AbstractContextManager[None]:
        """The network with the weights to use or save."""
        return self.trained.on(self._to_use())

    def _to_use(self) -> nn.Module:
        """The weights to use or save, in evaluation mode."""
        if self.average is not None:
            found = self.average.module
        elif hasattr(self.optimizer, "eval"):
            found = self._evaluated()
        else:
            found = self.weights
        self.weights.eval()
        return found.eval()

    def _evaluated(self) -> nn.Module:
        """A copy at the weights that a schedule-free optimizer stands for.

        Going there and back rounds, so what is trained is put back bit for bit.
        """
        trained = [parameter.detach().clone() for parameter in self.parameters]
        self._learn(False)
        found = copy.deepcopy(self.weights)
        self._learn(True)
        with torch.no_grad():
            for parameter, value in zip(self.parameters, trained, strict=True):
                parameter.copy_(value)
        return found
