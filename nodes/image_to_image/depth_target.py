"""Depth Target: metric depth -> IMAGE to train on, and the mask of its valid pixels."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from comfy_api.latest import io
from torch import Tensor

from ...d2f_core import DepthRange, depth_range, depth_target, valid_pixels
from .. import host
from ..checks import checked
from ..widgets import IMAGE_TO_IMAGE, search_words
from .depth_inputs import as_depth, depth_input, valid_input

VALUES: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"depth": lambda values: values, "disparity": lambda values: 1 / values}
)
"""What a map holds -> values (B, H, W) to depth."""

INVERTED = (
    "in most of these images the lower third is farther away than the upper third, which is rare in photos: if the "
    "maps are bright where things are near, set 'values' to disparity"
)


class D2FDepthTarget(io.ComfyNode):
    """Maps log depth between two percentiles of each image to [0, 1]."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="D2FDepthTarget",
            display_name="Depth Target (Diff2Flow)",
            category=IMAGE_TO_IMAGE,
            description="Turns metric depth into the image that a depth model learns to generate: the logarithm of "
            "depth between two percentiles of each image, near black and far white. Pixels without depth are masked.",
            search_aliases=search_words("D2FDepthTarget"),
            inputs=[
                depth_input(
                    "depth",
                    "Metric depth in any unit, larger is farther, such as from Demo Scenes or Paired Folder. A MASK, "
                    "or an IMAGE, whose channels are averaged. For disparity set 'values'.",
                ),
                _percentile(
                    "low_percentile", 1.0, "Percentile of each image's log depth that is mapped to black (near)."
                ),
                _percentile(
                    "high_percentile", 99.0, "Percentile of each image's log depth that is mapped to white (far)."
                ),
                io.Boolean.Input(
                    "clip",
                    default=True,
                    tooltip="Clip values beyond the percentiles. Otherwise a few pixels are below 0 or above 1.",
                ),
                valid_input(),
                io.Combo.Input(
                    "values",
                    options=list(VALUES),
                    default="depth",
                    optional=True,
                    tooltip="What the values are. depth: larger is farther. disparity: larger is nearer, as in the "
                    "maps of stereo cameras and of most depth estimators; depth is its inverse.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="target", tooltip="For VAE Encode; black is near, white is far."),
                io.Mask.Output(
                    display_name="valid",
                    tooltip="White where the depth is valid. Pass it to the trainer with Set Latent Noise Mask to "
                    "exclude the other pixels from the loss.",
                ),
                io.String.Output(
                    display_name="report", tooltip="Depth range and fraction of valid pixels of each image."
                ),
            ],
        )

    @classmethod
    @checked()
    def execute(
        cls,
        depth: Tensor,
        low_percentile: float,
        high_percentile: float,
        clip: bool,
        valid: Tensor | None = None,
        values: str = "depth",
    ) -> io.NodeOutput:
        metric = VALUES[values](as_depth(depth))
        mask = valid_pixels(metric, None if valid is None else as_depth(valid))
        limits = depth_range(metric, mask, (low_percentile, high_percentile))
        target = (depth_target(metric, mask, clip=clip, limits=limits) + 1) / 2
        report = _report(limits, mask)
        if _grows_downwards(metric, mask) > len(metric) / 2:
            host.tell(INVERTED)
            report += f"\n{INVERTED}"
        return io.NodeOutput(target[..., None].repeat(1, 1, 1, 3), mask.float(), report)


def _percentile(name: str, default: float, tooltip: str) -> io.Input:
    return io.Float.Input(name, default=default, min=0.0, max=100.0, step=0.5, round=0.01, tooltip=tooltip)


def _report(limits: DepthRange, mask: Tensor) -> str:
    """One line per image."""
    fractions = mask.flatten(1).cpu().double().mean(1).tolist()
    rows = zip(limits.low.exp().tolist(), limits.high.exp().tolist(), fractions)
    return "\n".join(
        f"image {number}: depth {near:.4g} is black, {far:.4g} is white; {fraction:.1%} of the pixels are valid"
        for number, (near, far, fraction) in enumerate(rows, 1)
    )


def _grows_downwards(depth: Tensor, valid: Tensor) -> int:
    """In how many images (B, H, W) the lower third is farther than the upper one, by a tenth or more."""
    third = max(1, depth.shape[1] // 3)
    ratios = [
        _median(one[-third:], known[-third:]) / _median(one[:third], known[:third]) for one, known in zip(depth, valid)
    ]
    return sum(ratio > 1.1 for ratio in ratios)


def _median(depth: Tensor, valid: Tensor) -> float:
    return float(depth[valid].median()) if bool(valid.any()) else float("nan")
