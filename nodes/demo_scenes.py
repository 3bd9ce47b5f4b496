"""Demo Scenes: pictures and captions to train the demo model on."""

from comfy_api.latest import io
from torch import Tensor

from .inputs import CATEGORY

NEW, KNOWN = "cyan and striped", "known words"
STREAM = 4  # of random numbers, apart from those that demo/adaptation.py trains and measures with


class D2FDemoScenes(io.ComfyNode):
    """Renders captioned scenes as the embedded demo model was trained on, or with words that it never saw."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="D2FDemoScenes",
            display_name="Demo Scenes (Diff2Flow)",
            category=CATEGORY,
            description="A small training set for the demo model, rendered on the spot: scenes of one object with "
            "captions. The demo model has never seen cyan or stripes, so that a LoRA has something to teach it.",
            search_aliases=["diff2flow demo", "demo dataset", "demo images", "test training set", "synthetic dataset"],
            inputs=[
                io.Combo.Input(
                    "scenes",
                    options=[NEW, KNOWN],
                    default=NEW,
                    tooltip="What they show. cyan and striped: in turn a cyan object, a striped one, one that is both; "
                    "new to the demo model. known words: what the demo model was trained on.",
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
            ],
        )

    @classmethod
    def execute(cls, scenes: str, count: int, seed: int) -> io.NodeOutput:
        return io.NodeOutput(*_render(scenes == NEW, count, seed))


def _render(new: bool, count: int, seed: int) -> tuple[Tensor, list[str]]:
    """Images (count, 96, 96, 3) in [0, 1], and their captions."""
    import numpy

    from ..demo.adaptation import task_scene
    from ..demo.captions import caption
    from ..demo.render import render_batch
    from ..demo.scenes import sample_scene

    rng = numpy.random.default_rng((seed, STREAM))
    found = [task_scene(rng, i) if new else sample_scene(rng) for i in range(count)]
    return render_batch(found)[0], [caption(scene, rng) for scene in found]
