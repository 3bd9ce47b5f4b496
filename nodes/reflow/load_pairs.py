"""Load Reflow Pairs: a set of pairs on disk -> D2F_PAIRS."""

from pathlib import Path

from comfy_api.latest import io

from ...d2f_core import WINDOWS
from ...d2f_data.reflow.manifest import MANIFEST
from ...d2f_data.reflow.pair_set import ReflowPairSet
from .. import host
from ..checks import checked, fault_of
from ..widgets import REFLOW, search_words
from .pair_generator import describe

NONE = "none"
ALL_WINDOWS = "as generated"


class D2FLoadPairs(io.ComfyNode):
    """Opens a set of pairs after verifying its files; the latents are read from disk during training."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="D2FLoadPairs",
            display_name="Load Reflow Pairs (Diff2Flow)",
            category=REFLOW,
            description="Opens a finished set of pairs from Generate Reflow Pairs. Every file is first verified "
            "against the manifest; the pairs themselves are read from disk during training.",
            search_aliases=search_words("D2FLoadPairs"),
            inputs=[
                io.Combo.Input(
                    "pairs",
                    options=[NONE, *host.pair_sets()],
                    default=NONE,
                    tooltip="A set in output/diff2flow/pairs. Only finished sets are listed.",
                ),
                io.Combo.Input(
                    "windows",
                    options=[ALL_WINDOWS, *(str(number) for number in WINDOWS)],
                    default=ALL_WINDOWS,
                    optional=True,
                    tooltip="In how many windows the student learns the paths: those that the set was generated with, "
                    "or fewer. A set of 8 can be read as 4, 2 or 1.",
                ),
            ],
            outputs=[
                io.Custom("D2F_PAIRS").Output(
                    display_name="pairs", tooltip="For the 'pairs' input of LoRA Trainer (Diff2Flow)."
                ),
                io.String.Output(display_name="report", tooltip="Teacher settings, size on disk and prompts."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, pairs: str = NONE, windows: str = ALL_WINDOWS) -> str:
        """Modification time of the set's manifest, so that the node runs again once the set has changed."""
        return NONE if pairs == NONE else host.file_state(lambda: host.pair_set_folder(pairs) / MANIFEST)

    @classmethod
    def validate_inputs(cls, pairs: str | None = None) -> bool | str:
        """Checked when the graph is queued; None is a value that comes through a wire."""
        return pairs is None or fault_of(lambda: _chosen(pairs))

    @classmethod
    @checked("pairs")
    def execute(cls, pairs: str, windows: str = ALL_WINDOWS) -> io.NodeOutput:
        found = ReflowPairSet(_chosen(pairs))
        if windows != ALL_WINDOWS:
            found = found.in_windows(int(windows))
        return io.NodeOutput(found, describe(found))


def _chosen(pairs: str) -> Path:
    """Folder of the set. Raises ValueError if none is selected, or there is none of that name."""
    if pairs == NONE:
        raise ValueError(
            "no set of pairs is selected in 'pairs'; create one with Generate Reflow Pairs, then select it there"
        )
    return host.pair_set_folder(pairs)
