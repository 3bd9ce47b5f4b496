"""The pack's nodes for ComfyUI, one topic a file.

Node files: ``convert``, ``sampler``, ``scheduler``, ``ksampler``, ``folder_dataset``, ``train_lora``, ``save_lora``,
``load_lora``, ``reflow_pairs``, ``load_pairs``, ``trajectory``, ``demo_checkpoint``, ``demo_scenes``,
``paired_folder``, ``image_condition``, ``apply_condition``, ``depth_target``, ``depth_from_image``, ``depth_metrics``.
They do not import each other. What they share: ``inputs`` and ``dataset_inputs`` (widgets), ``folders`` (those that
users name), ``levels`` (SIGMAS), ``ode`` (the sampling loop), ``flow_sampling`` (the object behind a converted MODEL),
``training_inputs``, ``training_plan``, ``training_data``, ``training_preview``, ``training_clock`` and ``training_run``
(what is behind the trainer), ``conditionings`` (taken apart and joined), ``guided`` (a network's velocity with
guidance), ``pair_prompts``, ``pair_making`` and ``pair_items`` (reflow pairs), ``path_measures`` (straightness),
``depth_inputs`` (image to depth) and ``host``, the only room that touches ComfyUI's internals.
"""

from comfy_api.latest import ComfyExtension, io

from . import host
from .apply_condition import D2FApplyCondition
from .convert import D2FConvert
from .demo_checkpoint import D2FDemoCheckpoint
from .demo_scenes import D2FDemoScenes
from .depth_from_image import D2FDepthFromImage
from .depth_metrics import D2FDepthMetrics
from .depth_target import D2FDepthTarget
from .folder_dataset import D2FFolderDataset
from .image_condition import D2FImageCondition
from .ksampler import D2FKSampler
from .load_lora import D2FLoadLora
from .load_pairs import D2FLoadPairs
from .paired_folder import D2FPairedFolder
from .reflow_pairs import D2FReflowPairs
from .sampler import D2FSampler
from .save_lora import D2FSaveLora
from .scheduler import D2FScheduler
from .train_lora import D2FTrainLora
from .trajectory import D2FTrajectory


class Diff2FlowExtension(ComfyExtension):
    """All nodes of the pack."""

    async def on_load(self) -> None:
        await host.register_renames()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            D2FConvert,
            D2FSampler,
            D2FScheduler,
            D2FKSampler,
            D2FFolderDataset,
            D2FTrainLora,
            D2FSaveLora,
            D2FLoadLora,
            D2FDemoCheckpoint,
            D2FDemoScenes,
            D2FReflowPairs,
            D2FLoadPairs,
            D2FTrajectory,
            D2FPairedFolder,
            D2FImageCondition,
            D2FApplyCondition,
            D2FDepthTarget,
            D2FDepthFromImage,
            D2FDepthMetrics,
        ]
