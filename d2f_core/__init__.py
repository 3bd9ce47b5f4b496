"""Diff2Flow mathematics: a diffusion network seen in flow matching coordinates.

Pure PyTorch; this package knows nothing of ComfyUI. Reference: Schusterbauer, Gui, Fundel, Ommer,
"Diff2Flow: Training Flow Matching Models via Diffusion Model Alignment", CVPR 2025, arXiv 2506.02221.

Glossary (B is the batch size, ``*`` any number of further dimensions):

======================  ==========================================================  =================
name                    meaning                                                     range / shape
======================  ==========================================================  =================
``t``                   flow time of the paper: 0 = noise, 1 = data                 [0, 1], () or (B,)
``s``                   ComfyUI's flow sigma, ``s = 1 - t``                         [0, 1], as t
``timestep``            index that the network was trained on, may be fractional    [0, T - 1]
``alpha``, ``sigma``    variance preserving coefficients, ``alpha^2 + sigma^2 = 1`` [0, 1]
``sigma_ve``            ``sigma / alpha``, what k-diffusion calls sigma             [0, inf)
``x_dm``                ``alpha * x0 + sigma * eps``: what the network sees         (B, *)
``x_fm``                ``t * x0 + (1 - t) * eps``: what the ODE moves              (B, *)
``x0``, ``eps``         clean latent, unit Gaussian noise                           (B, *)
``velocity``            ``d x_fm / d t = x0 - eps``                                 (B, *)
``model_output``        what the network returned, by ``PREDICTIONS``               (B, *)
======================  ==========================================================  =================

The v of v-prediction is ``alpha * eps - sigma * x0``; it is never called velocity. T belongs to schedules with a
table; continuous ones and native flow networks have timesteps of their own (``continuous``).
"""

from .adapter import Adapter, FullAdapter, LowRankAdapter, WidenedAdapter, attached, is_compiled
from .adaptive import ADAPTIVE_METHODS
from .batches import Batch, BatchOrder, TrainingData, VariedData, derive_seed, in_epoch
from .compiled import compile_blocks, compiler_fault
from .continuous import TIME_SCALES, ContinuousSchedule, FlowSchedule, Schedule
from .density import DENSITIES, TimeDensity
from .depth import DepthRange, align_to, depth_from_target, depth_range, depth_target, ensemble, valid_pixels
from .dora import DoraAdapter
from .frozen_copy import for_autograd, frozen_copy, recomputed
from .grid import FLOW_GRIDS, STARTS, flow_grid, shift_sigmas
from .layer_rules import LayerRule, parse_layer_rules, rule_of
from .lora import TARGETS, AdapterSettings, adaptable_layers, make_adapters
from .loss import CHOSEN_OBJECTIVES, OBJECTIVES, Interpolant, Objective, objective_on
from .loss_weights import WEIGHTS
from .metrics import SPACES, DepthScores, depth_scores
from .naive import NaiveAlignment
from .nfe import CountedVelocity, EvaluationLimitError, NonFiniteVelocityError, SolverStep
from .offload import Offload
from .on_demand import can_run_on_demand, is_on_demand, run_on_demand
from .optim import OPTIMIZERS, SCHEDULES, make_optimizer, make_schedule
from .optional import install_command
from .prediction import PREDICTIONS
from .processes import OneProcess, Processes, agree
from .reflow import FlowPath, curvature, few_step_errors, follow, straightness
from .schedule import NoiseSchedule
from .solve import FIXED_METHODS, METHODS, Tableau, advance, solve
from .time_map import FlowTime, per_item
from .train import NonFiniteLossError, StepRecord, Trainer, TrainSettings
from .train_settings import seeded
from .trained import TrainedAdapters, TrainedNetwork
from .velocity import FlowAlignment
from .windows import WINDOWS, check_steps, coarser, edges, solve_windows, virtual_pair, window_straightness

__all__ = [
    "ADAPTIVE_METHODS",
    "CHOSEN_OBJECTIVES",
    "DENSITIES",
    "FIXED_METHODS",
    "FLOW_GRIDS",
    "METHODS",
    "OBJECTIVES",
    "OPTIMIZERS",
    "PREDICTIONS",
    "SCHEDULES",
    "SPACES",
    "STARTS",
    "TARGETS",
    "TIME_SCALES",
    "WEIGHTS",
    "WINDOWS",
    "Adapter",
    "AdapterSettings",
    "Batch",
    "BatchOrder",
    "ContinuousSchedule",
    "CountedVelocity",
    "DepthRange",
    "DepthScores",
    "DoraAdapter",
    "EvaluationLimitError",
    "FlowAlignment",
    "FlowPath",
    "FlowSchedule",
    "FlowTime",
    "FullAdapter",
    "Interpolant",
    "LayerRule",
    "LowRankAdapter",
    "NaiveAlignment",
    "NoiseSchedule",
    "NonFiniteLossError",
    "NonFiniteVelocityError",
    "Objective",
    "Offload",
    "OneProcess",
    "Processes",
    "Schedule",
    "SolverStep",
    "StepRecord",
    "Tableau",
    "TimeDensity",
    "TrainSettings",
    "TrainedAdapters",
    "TrainedNetwork",
    "Trainer",
    "TrainingData",
    "VariedData",
    "WidenedAdapter",
    "adaptable_layers",
    "advance",
    "agree",
    "align_to",
    "attached",
    "can_run_on_demand",
    "check_steps",
    "coarser",
    "compile_blocks",
    "compiler_fault",
    "curvature",
    "depth_from_target",
    "depth_range",
    "depth_scores",
    "depth_target",
    "derive_seed",
    "edges",
    "ensemble",
    "few_step_errors",
    "flow_grid",
    "follow",
    "for_autograd",
    "frozen_copy",
    "in_epoch",
    "install_command",
    "is_compiled",
    "is_on_demand",
    "make_adapters",
    "make_optimizer",
    "make_schedule",
    "objective_on",
    "parse_layer_rules",
    "per_item",
    "recomputed",
    "rule_of",
    "run_on_demand",
    "seeded",
    "shift_sigmas",
    "solve",
    "solve_windows",
    "straightness",
    "valid_pixels",
    "virtual_pair",
    "window_straightness",
]
