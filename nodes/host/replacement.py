"""Renamed nodes: saved graphs and prompts with an old id go on, through the host's node replacement.

A node gets another id, or a change that its saved graphs would not survive, only with a line in ``RENAMES``. The page
then offers to swap the old node, and the host rewrites prompts that name it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from comfy_api.latest import ComfyAPI, io


@dataclass(frozen=True)
class Rename:
    """A node id that is no more, and what took its place. What is not named here is lost.

    Args:
        old, new: node ids.
        inputs: old name -> new name. The host wants every old name to be in a prompt that it rewrites, so one that may
            be absent (an optional input, one of a dynamic combo) makes it fail.
        outputs: old number -> new number.
        widgets: old names of the widgets in the order of their values in a saved graph, the page's own
            `control_after_generate` behind a seed among them.
    """

    old: str
    new: str
    inputs: Mapping[str, str]
    outputs: Mapping[int, int]
    widgets: tuple[str, ...] = ()


RENAMES: tuple[Rename, ...] = ()


async def register_renames(renames: Sequence[Rename] = RENAMES) -> None:
    """Tell the host about all of them."""
    for rename in renames:
        await ComfyAPI().node_replacement.register(
            io.NodeReplace(
                new_node_id=rename.new,
                old_node_id=rename.old,
                old_widget_ids=list(rename.widgets),
                input_mapping=[{"new_id": new, "old_id": old} for old, new in rename.inputs.items()],
                output_mapping=[{"new_idx": new, "old_idx": old} for old, new in rename.outputs.items()],
            )
        )
