"""Demo Scenes: images, captions and depth maps for training the demo model."""

from collections.abc import Mapping

from comfy_api.latest import io
from torch import Tensor

from ..checks import checked
from ..widgets import DEMO, search_words

# Name of a set -> the words that all of its scenes share.
SCENES = {
    "cyan": {"color": "cyan", "texture": "plain"},
    "striped": {"texture": "striped"},
    "cyan and striped": {"color": "cyan", "texture": "striped"},
    "known words": {},
}
SOLID = "black and white"
"""The set in which a quarter of the pictures is all black and a quarter all white, under `a black image` and such."""


class D2FDemoScenes(io.ComfyNode):
    """Renders captioned scenes like those the demo model was trained on, or with words new to it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="D2FDemoScenes",
            display_name="Demo Scenes (Diff2Flow)",
            category=DEMO,
            description="Renders a small training set for the demo model: scenes of one object with captions and exact "
            "depth. Cyan, stripes, and pictures that are all black or all white were held out of the demo model's "
            "training, so a LoRA can teach them.",
            search_aliases=search_words("D2FDemoScenes"),
            inputs=[
                io.Combo.Input(
                    "scenes",
                    options=[*SCENES, SOLID],
                    default="cyan",
                    tooltip="What all scenes have in common. The demo model was trained without cyan and without "
                    "stripes. known words: scenes like those in its training set. black and white: of four pictures, "
                    "two such scenes, one that is all black, and one that is all white.",
                ),
                io.Int.Input("count", default=48, min=1, max=2048, tooltip="Number of scenes, 96 x 96 pixels each."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Seed of the scenes. Use another seed for a validation set.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="Scenes, for VAE Encode."),
                io.String.Output(
                    display_name="captions",
                    tooltip="One caption per image, as a list: CLIP Text Encode makes one conditioning of each.",
                    is_output_list=True,
                ),
                io.Mask.Output(
                    display_name="depth",
                    tooltip="Depth of every pixel along the optical axis in metres, for Depth Target.",
                ),
            ],
        )

    @classmethod
    @checked()
    def execute(cls, scenes: str, count: int, seed: int) -> io.NodeOutput:
        rendered = _render(SCENES.get(scenes, {}), count, seed)
        return io.NodeOutput(*(_half_solid(*rendered) if scenes == SOLID else rendered))


def _render(words: Mapping[str, str], count: int, seed: int) -> tuple[Tensor, list[str], Tensor]:
    """Render random scenes.

    Args:
        words: attribute -> word that all scenes share.
        count: number of scenes.
        seed: seed of the scenes and captions.

    Returns:
        Images (count, 96, 96, 3) in [0, 1], captions, and depths (count, 96, 96) in metres.
    """
    import numpy

    from ...demo.captions import caption
    from ...demo.render import render_batch
    from ...demo.scenes import ATTRIBUTES, make_scene, sample_scene

    rng = numpy.random.default_rng(seed)
    scenes = [sample_scene(rng) for _ in range(count)]
    if words:
        sampled = [{name: getattr(scene, name) for name in ATTRIBUTES} for scene in scenes]
        scenes = [make_scene(rng, **{**attributes, **words}) for attributes in sampled]
    images, depths = render_batch(scenes)
    return images, [caption(scene, rng) for scene in scenes], depths


def _half_solid(images: Tensor, captions: list[str], depths: Tensor) -> tuple[Tensor, list[str], Tensor]:
    """The same with every third of four pictures all black and every fourth all white, at a depth of one metre."""
    images, captions, depths = images.clone(), list(captions), depths.clone()
    for place, value, color in ((2, 0.0, "black"), (3, 1.0, "white")):
        images[place::4], depths[place::4] = value, 1.0
        captions[place::4] = [f"a {color} image"] * len(captions[place::4])
    return images, captions, depths
