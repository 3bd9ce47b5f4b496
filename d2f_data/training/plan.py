"""The values of the trainer's widgets, and the settings of ``d2f_core`` that follow from them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from ..core import (
    OBJECTIVES,
    WEIGHTS,
    Adapter,
    AdapterSettings,
    BatchOrder,
    FlowAlignment,
    Objective,
    Processes,
    TimeDensity,
    Trainer,
    TrainingData,
    TrainSettings,
    make_optimizer,
    make_schedule,
    objective_on,
    parse_layer_rules,
)
from .groups import parameter_groups, rate_factors
from .network import NetworkToTrain

AUTO_DENSITY = "auto"
"""The density that an objective is defined with."""

LEAST_PRODIGY_RATE = 0.1

# Schedules that had the curve of another one in earlier versions, with what they are now.
_LR_CURVES = {"cosine_with_restarts": "3 cycles", "polynomial": "power 2"}

# Settings that may change between sessions of a run, or count only where they are not at their defaults. Whether it is
# compiled is known only to the network, the parameter of the weight is a setting only where the weight has one, and
# where weights are kept changes no value.
_FREE = (
    *("steps", "save_every", "preview_every", "preview_cfg", "validate_every", "run_name", "resume", "compile"),
    *("weight_gamma", "offload", "t_low", "t_high", "epochs", "layer_rules", "text_encoder_lr", "text_encoder_rank"),
)


@dataclass(frozen=True)
class TrainingPlan:
    """The values of the trainer's widgets, by name; see their tooltips."""

    run_name: str
    objective: str
    steps: int
    learning_rate: float
    batch_size: int
    rank: int
    targets: str
    optimizer: str
    lr_schedule: str
    warmup_steps: int
    precision: str
    checkpointing: bool
    caption_dropout: float
    save_every: int
    preview_every: int
    resume: str
    seed: int
    adapter: str
    alpha: float
    rank_ratio: float
    dropout: float
    full_ends: bool
    target_pattern: str
    density: str
    density_mean: float
    density_std: float
    weight: str
    loss: str
    huber_delta: float
    weight_decay: float
    clip: float
    accumulation: int
    ema: float
    validate_every: int
    preview_cfg: float
    compile: bool = False
    weight_gamma: float = 0.0
    offload: bool = False
    t_low: float = 0.0
    t_high: float = 1.0
    epochs: int = 0
    layer_rules: str = ""
    text_encoder_lr: float = 5e-5
    text_encoder_rank: int = 0

    def check(self, has_negative: bool, has_pairs: bool) -> None:
        """Raise ValueError if the widgets contradict the inputs or each other."""
        if OBJECTIVES[self.objective].is_consistent and not has_pairs:
            raise ValueError(
                f"objective is {self.objective}, a finish of reflow, which goes along the paths of reflow pairs; give "
                "it pairs (Generate Reflow Pairs), or choose diff2flow"
            )
        if self.optimizer == "prodigy" and self.learning_rate < LEAST_PRODIGY_RATE:
            raise ValueError(
                f"learning_rate is {self.learning_rate:g}, but prodigy multiplies its own estimate by learning_rate, "
                f"so that almost nothing would be learned; set it to 1 (at least {LEAST_PRODIGY_RATE:g}), or choose "
                "another optimizer"
            )
        if self.caption_dropout and not has_negative:
            raise ValueError(
                f"caption_dropout is {self.caption_dropout} but nothing is connected to 'negative'; connect the "
                "conditioning of an empty prompt, or set caption_dropout to 0"
            )

    def adapters(self) -> AdapterSettings:
        """Which layers get adapters, and how large these are."""
        return AdapterSettings(
            targets=self.target_pattern.strip() or self.targets,
            rank=self.rank,
            rank_ratio=self.rank_ratio,
            alpha=self.alpha or None,
            dropout=self.dropout,
            full_ends=self.full_ends,
            rules=parse_layer_rules(self.layer_rules),
        )

    @property
    def file_rank(self) -> int:
        """Rank for the metadata of a LoRA file; 0 if it differs between layers."""
        return 0 if self._has_many_ranks else self.rank

    @property
    def file_alpha(self) -> float:
        """Alpha for the metadata of a LoRA file; 0 if it differs between layers."""
        return 0.0 if self._has_many_ranks else self.alpha or float(self.rank)

    @property
    def _has_many_ranks(self) -> bool:
        rules = parse_layer_rules(self.layer_rules)
        return bool(self.rank_ratio) or any((rule.rank, rule.alpha) != (None, None) for rule in rules)

    def make_optimizer(self, network: nn.Module, adapters: Mapping[str, Adapter] | None) -> torch.optim.Optimizer:
        """The optimizer of adapters, or of those parameters of a network that are trained."""
        if adapters is None:
            trained: list[Any] = [parameter for parameter in network.parameters() if parameter.requires_grad]
        else:
            text = self.text_encoder_lr / self.learning_rate
            factors = rate_factors(adapters, network, parse_layer_rules(self.layer_rules), text)
            trained = parameter_groups(adapters, factors, self.learning_rate, self.optimizer)
        return make_optimizer(self.optimizer, trained, self.learning_rate, self.weight_decay)

    def for_items(self, items: TrainingData) -> "TrainingPlan":
        """The plan with the number of steps that its epochs come to on a training set; itself without epochs."""
        if not self.epochs:
            return self
        batches = self.epochs * BatchOrder(items.groups, self.batch_size, self.seed).per_epoch
        return replace(self, steps=-(-batches // self.accumulation))

    def make_schedule(self, optimizer: torch.optim.Optimizer) -> Any:
        """The learning rate schedule; None for a constant rate without warm-up."""
        return make_schedule(self.lr_schedule, optimizer, self.warmup_steps, self.steps)

    def objective_for(self, alignment: FlowAlignment) -> Objective:
        """The training objective, "flow" on a native flow model. Raises ValueError if it makes no sense there."""
        name = objective_on(alignment, self.objective)
        huber = self.huber_delta if self.loss == "huber" else None
        return Objective(alignment, name, self.weight, huber, self.weight_gamma)

    def note(self, objective: Objective) -> str:
        """For the node's text: another objective than that of the widget, timesteps of a range, steps of epochs."""
        said = []
        if objective.name != self.objective:
            said.append(f"objective {objective.name}, as this is a flow matching model of its own")
        if self.times().has_range:
            ends = objective.coordinates.timestep(torch.tensor([self.t_high, self.t_low], dtype=torch.float64))
            steps = "timesteps {:.0f} to {:.0f}".format(*ends.tolist())
            said.append(f"trains t from {self.t_low:g} to {self.t_high:g}, {steps}")
        if self.epochs:
            said.append(f"{self.epochs} epochs are {self.steps} steps")
        return "".join(f"; {one}" for one in said)

    def times(self) -> TimeDensity:
        """The density of flow times."""
        return TimeDensity(self._density, self.density_mean, self.density_std, self.t_low, self.t_high)

    @property
    def _density(self) -> str:
        """Name of the density, with "auto" resolved."""
        return OBJECTIVES[self.objective].density if self.density == AUTO_DENSITY else self.density

    def train_settings(self, scale_gradients: bool) -> TrainSettings:
        """Settings of the training loop."""
        return TrainSettings(
            seed=self.seed,
            batch_size=self.batch_size,
            accumulation=self.accumulation,
            clip=self.clip,
            ema=self.ema,
            drop_condition=self.caption_dropout,
            scale_gradients=scale_gradients,
        )

    def make_trainer(
        self,
        network: NetworkToTrain,
        adapters: Mapping[str, Adapter] | None,
        items: TrainingData,
        processes: Processes | None = None,
    ) -> Trainer:
        """The trainer of new adapters, which move to the network's device, or of the network itself for None.

        Args:
            network, items: the network and what it learns.
            adapters: path of a layer -> its adapter, or None.
            processes: those that train together, if there is more than one.
        """
        if adapters is not None:
            nn.ModuleList(adapters.values()).to(network.device)
        optimizer = self.make_optimizer(network.module, adapters)
        return Trainer(
            network.module,
            network,
            adapters,
            self.objective_for(network.alignment),
            self.times(),
            items,
            optimizer,
            self.make_schedule(optimizer),
            self.train_settings(scale_gradients=network.dtype == torch.float16),
            processes,
        )

    def config(self) -> dict[str, str | int | float | bool | None]:
        """Settings that must stay the same on a resume; an lr_schedule over all steps fixes their number as well."""
        fixed = {name: value for name, value in asdict(self).items() if name not in _FREE}
        steps = 0 if self.lr_schedule == "constant" else self.steps
        gamma = WEIGHTS[self.weight].gamma
        own: dict[str, Any] = {} if gamma is None else {"weight_gamma": self.weight_gamma or gamma}
        own |= {"t_low": self.t_low, "t_high": self.t_high} if self.times().has_range else {}
        own |= {"layer_rules": self.layer_rules.strip()} if self.layer_rules.strip() else {}
        return {**fixed, **own, "density": self._density, "steps_of_lr_schedule": steps, **self._redefined()}

    def _redefined(self) -> dict[str, str]:
        """What earlier versions did otherwise under the same names, so that their runs are not resumed with it."""
        found = {"lr_curve": _LR_CURVES[self.lr_schedule]} if self.lr_schedule in _LR_CURVES else {}
        if self._density == "timestep" and not OBJECTIVES[self.objective].is_aligned:
            found["timesteps"] = "of the objective"
        return found
