"""The training loop: a generator that yields a record a step.

Step k minimises the objective's loss over the adapters,

    x0 from the data,  eps ~ N(0, 1),  t ~ density,  loss = mean_i w(t_i) |prediction_i - target_i|^2

Progress, cancelling, previews and saving are the caller's: it stops iterating, or looks at the network between
steps, when no hook of ours is on it. Every random number of step k comes from generators seeded by (seed, k), and
the order of the data from (seed, epoch). So a run has no random state to keep, k steps, a resume and N - k
steps are N steps bit for bit, and the global generators are left as they were.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .lora import Adapter, attached
from .loss import Objective, Pair, TimeDensity


class Batch(NamedTuple):
    """What the data gives for some items: latents (B, *), condition, weights of the places, and fixed noise."""

    x0: Tensor
    condition: Any
    mask: Tensor | None = None
    eps: Tensor | None = None
    """Noise coupled to x0 (reflow pairs); None draws it."""


class TrainingData(Protocol):
    """Items in groups of one shape each."""

    groups: Sequence[Sequence[int]]

    def batch(self, items: Sequence[int], drop: Sequence[bool]) -> Batch:
        """The items, those with ``drop`` under their null condition."""


@dataclass(frozen=True)
class TrainSettings:
    """How a run goes.

    Attributes:
        seed: of everything random.
        batch_size: items a forward pass, at most; the last batch of a group may be smaller.
        accumulation: batches a step.
        clip: largest norm of the gradient; 0 for no clipping.
        ema: decay of the averaged weights, 0 for none.
        drop_condition: probability that an item is trained under the null condition.
    """

    seed: int = 0
    batch_size: int = 1
    accumulation: int = 1
    clip: float = 1.0
    ema: float = 0.0
    drop_condition: float = 0.0

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulation"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("ema", "drop_condition"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}; 0 switches it off")
        if self.clip < 0:
            raise ValueError(f"clip must not be below 0, got {self.clip}; 0 switches clipping off")


@dataclass(frozen=True)
class StepRecord:
    """What happened in a step; ``step`` counts from 1 over all resumes."""

    step: int
    loss: float
    grad_norm: float
    learning_rate: float
    seconds: float


class NonFiniteLossError(ArithmeticError):
    """The loss became NaN or infinite; the adapters hold the weights of the step before."""


class Trainer:
    """Trains adapters of a network; see the module's head.

    Args:
        module: the frozen network, onto whose layers the adapters are put.
        network: ``(network_input (B, *), timestep (B,), condition) -> model output (B, *)``, calling ``module``.
        adapters: path of a layer -> its adapter.
        objective, density: what is learned, and at which flow times.
        data: where batches come from.
        optimizer: over the adapters' parameters.
        schedule: its learning rate schedule, stepped once a step; None for a constant rate.
        settings: how the run goes.
    """

    def __init__(
        self,
        module: nn.Module,
        network: Callable[[Tensor, Tensor, Any], Tensor],
        adapters: Mapping[str, Adapter],
        objective: Objective,
        density: TimeDensity,
        data: TrainingData,
        optimizer: torch.optim.Optimizer,
        schedule: Any | None = None,
        settings: TrainSettings | None = None,
    ) -> None:
        self.module, self.network, self.adapters = module, network, dict(adapters)
        self.objective, self.density, self.data = objective, density, data
        self.optimizer, self.schedule, self.settings = optimizer, schedule, settings or TrainSettings()
        self.weights = nn.ModuleList(self.adapters.values())
        decay = self.settings.ema
        self.average = AveragedModel(self.weights, multi_avg_fn=get_ema_multi_avg_fn(decay)) if decay else None
        self.step = 0

    def run(self, steps: int) -> Iterator[StepRecord]:
        """Train ``steps`` more steps.

        Raises:
            NonFiniteLossError: names the step; the weights are those of the step before.
            ValueError: after the first step, names layers whose adapters had no gradient.
        """
        for _ in range(steps):
            yield self._step()

    def _step(self) -> StepRecord:
        start = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        self.weights.train()
        batches = self.settings.accumulation
        loss = sum(self._backward(self.step * batches + i) for i in range(batches))
        if self.step == 0:
            self._check_gradients()
        norm = nn.utils.clip_grad_norm_(self.weights.parameters(), self.settings.clip or float("inf"))
        rate = self.optimizer.param_groups[0]["lr"]
        self.optimizer.step()
        if self.schedule is not None:
            self.schedule.step()
        if self.average is not None:
            self.average.update_parameters(self.weights)
        self.step += 1
        return StepRecord(self.step, loss, float(norm), float(rate), time.perf_counter() - start)

    def _backward(self, index: int) -> float:
        """Add the gradient of batch number ``index`` of the run; its share of the step's loss."""
        generator = torch.Generator().manual_seed(mix(self.settings.seed, index))
        items = batch_items(self.data.groups, self.settings.batch_size, self.settings.seed, index)
        drop = torch.rand(len(items), generator=generator) < self.settings.drop_condition
        batch = self.data.batch(items, drop.tolist())
        pair = self._pair(batch, generator)
        question = self.objective.ask(pair)
        # Dropout, and checkpoints that recompute it, draw from the global generators.
        with torch.random.fork_rng(), attached(self.module, self.adapters), torch.enable_grad():
            torch.manual_seed(mix(self.settings.seed, ~index))
            output = self.network(question.network_input, question.timestep, batch.condition)
            loss = self.objective.loss(output, pair, batch.mask).mean() / self.settings.accumulation
            self._check_loss(loss)
            loss.backward()
        return float(loss.detach())

    def _pair(self, batch: Batch, generator: torch.Generator) -> Pair:
        t = self.density.sample(len(batch.x0), self.objective.alignment, generator)
        noise = torch.randn(batch.x0.shape, generator=generator) if batch.eps is None else batch.eps
        return Pair(batch.x0, noise.to(batch.x0), t.to(batch.x0.device))

    def _check_loss(self, loss: Tensor) -> None:
        if not bool(torch.isfinite(loss)):
            raise NonFiniteLossError(
                f"the loss became NaN or infinite at step {self.step + 1}; the weights of step {self.step} are kept. "
                "Lower the learning rate, clip the gradient, or compute in bfloat16 or float32 instead of float16"
            )

    def _check_gradients(self) -> None:
        without = [path for path, adapter in self.adapters.items() if all(p.grad is None for p in adapter.parameters())]
        if without:
            raise ValueError(
                f"{len(without)} adapters got no gradient, the first at {without[0]}: these layers do not take part in "
                "the forward pass (quantised formats such as GGUF do their own); choose other targets, or a checkpoint "
                "in float16, bfloat16 or float32"
            )

    def state_dict(self) -> dict[str, Any]:
        """All that a resume needs: weights, average, optimizer, schedule and step."""
        return {
            "step": self.step,
            "weights": self.weights.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
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

    def averaged(self) -> dict[str, Adapter]:
        """Path -> adapter to use or save: the averaged ones if there are any."""
        if self.average is None:
            return dict(self.adapters)
        return dict(zip(self.adapters, cast("Iterable[Adapter]", self.average.module), strict=True))


def batch_items(groups: Sequence[Sequence[int]], batch_size: int, seed: int, index: int) -> list[int]:
    """Items of batch number ``index`` of a run: every epoch takes each item once, in an order of its own."""
    per_epoch = sum(-(-len(group) // batch_size) for group in groups)
    if not per_epoch:
        raise ValueError("the training set is empty; give it at least one item")
    epoch, place = divmod(index, per_epoch)
    generator = torch.Generator().manual_seed(mix(seed, -epoch - 1))
    batches = []
    for group in groups:
        order = torch.randperm(len(group), generator=generator).tolist()
        batches += [[group[i] for i in order[at : at + batch_size]] for at in range(0, len(order), batch_size)]
    return batches[torch.randperm(per_epoch, generator=generator)[place]]


def mix(seed: int, index: int) -> int:
    """A well spread 63 bit seed of two integers (the finaliser of splitmix64)."""
    mask = (1 << 64) - 1
    z = (seed * 0x9E3779B97F4A7C15 + index * 0xD1B54A32D192ED03 + 0x632BE59BD9B4E019) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return (z ^ (z >> 31)) >> 1
