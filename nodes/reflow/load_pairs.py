"""Load Reflow Pairs: a set on disk -> D2F_PAIRS."""

from comfy_api.latest import io

from ...d2f_data.reflow.manifest import MANIFEST
from ...d2f_data.reflow.pairs import ReflowPairSet
from .. import host
from ..widgets import CATEGORY
from .pair_generator import describe

NONE = "none"


class D2FLoadPairs(io.ComfyNode):
    """Checks a set of pairs and hands it on; latents are read when they are trained on."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="D2FLoadPairs",
            display_name="Load Reflow Pairs (Diff2Flow)",
            category=CATEGORY,
            description="Opens a set of pairs that Generate Reflow Pairs has finished. Every file is checked against "
            "the manifest first; the pairs themselves are read from disk while they are trained on.",
            search_aliases=["diff2flow reflow", "load pairs", "rectified flow pairs", "reflow dataset"],
            inputs=[
                io.Combo.Input(
                    "pairs",
                    options=[NONE, *host.pair_sets()],
                    default=NONE,
                    tooltip="Set in output/diff2flow/pairs. Only finished sets are listed.",
                )
            ],
            outputs=[
                io.Custom("D2F_PAIRS").Output(
                    display_name="pairs", tooltip="For the input 'pairs' of Diff2Flow LoRA Trainer."
                ),
                io.String.Output(display_name="report", tooltip="Teacher, size on disk and prompts."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, pairs: str = NONE) -> str:
        """Changes when the set does."""
        path = host.pairs_folder() / pairs / MANIFEST
        return str(path.stat().st_mtime_ns) if path.is_file() else pairs

    @classmethod
    def execute(cls, pairs: str) -> io.NodeOutput:
        if pairs == NONE:
            raise ValueError("no set of pairs is chosen; make one with Generate Reflow Pairs, then pick it in the list")
        found = ReflowPairSet(host.pairs_folder() / pairs)
        return io.NodeOutput(found, describe(found, 0, 0.0))
