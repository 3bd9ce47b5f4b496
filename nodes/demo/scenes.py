"""Demo Scenes: pictures, captions and depths to train the demo model on."""

from collections.abc import Mapping

from comfy_api.latest import io
from torch import Tensor

from ..widgets import CATEGORY

SCENES = {
    "cyan": {"color": "cyan", "texture": "plain"},
    "striped": {"texture": "striped"},
    "cyan and striped": {"color": "cyan", "texture": "striped"},
    "known words": {},
}


class D2FDemoScenes(io.ComfyNode):
    """Renders captioned scenes as the embedded demo model was trained on, or with words that it never saw."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="D2FDemoScenes",
            display_name="Demo Scenes (Diff2Flow)",
            category=CATEGORY,
            description="A small training set for the demo model, rendered on the spot: scenes of one object with "
            "captions, and their exact depth. The demo model has never seen cyan or stripes, so that a LoRA has "
            "something to teach it.",
            search_aliases=["diff2flow demo", "demo dataset", "demo images", "synthetic dataset", "demo depth"],
            inputs=[
                io.Combo.Input(
                    "scenes",
                    options=list(SCENES),
                    default="cyan",
                    tooltip="What all scenes have in common. The demo model has seen neither cyan nor stripes. known "
                    "words: what it was trained on.",
                ),
                io.Int.Input("count", default=48, min=1, max=2048, tooltip="Number of scenes, 96 x 96 pixels each."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Another seed gives other scenes, such as a set that only measures.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="Scenes, for VAE Encode."),
                io.String.Output(
                    display_name="captions",
                    tooltip="A caption an image, as a list: CLIP Text Encode makes a conditioning of each.",
                    is_output_list=True,
                ),
                io.Mask.Output(
                    display_name="depth",
                    tooltip="Depth of every pixel in metres along the optical axis, not scaled: for Depth Target.",
                ),
            ],
        )

    @classmethod
    def execute(cls, scenes: str, count: int, seed: int) -> io.NodeOutput:
        return io.NodeOutput(*_render(SCENES[scenes], count, seed))


def _render(words: Mapping[str, str], count: int, seed: int) -> tuple[Tensor, list[str], Tensor]:
    """Images (count, 96, 96, 3) in [0, 1], captions, and depths (count, 96, 96) in metres, of random scenes.

    ``words`` are what they have in common.
    """
    import numpy

    from ...demo.captions import caption
    from ...demo.render import render_batch
    from ...demo.scenes import ATTRIBUTES, make_scene, sample_scene

    rng = numpy.random.default_rng(seed)
    scenes = [sample_scene(rng) for _ in range(count)]
    if words:
        drawn = [{name: getattr(scene, name) for name in ATTRIBUTES} for scene in scenes]
        scenes = [make_scene(rng, **{**one, **words}) for one in drawn]
    images, depths = render_batch(scenes)
    return images, [caption(scene, rng) for scene in scenes], depths
