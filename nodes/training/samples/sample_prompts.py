"""Sample Prompts (Diff2Flow): CLIP, VAE and a text with one prompt per line -> D2F_SAMPLES for the trainer."""

from typing import Any

from comfy_api.latest import io

from ....d2f_data.training.sample_prompts import OPTIONS, SamplePrompt, parse_prompts
from ... import host
from ...checks import checked, fault_of
from ...widgets import TRAIN, grid_input, search_words, seed_input
from .sample_set import encode_set


class D2FSamplePrompts(io.ComfyNode):
    """Parses and encodes the prompts that the trainer draws samples of."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="D2FSamplePrompts",
            display_name="Sample Prompts (Diff2Flow)",
            category=TRAIN,
            description="Prompts of your own that the LoRA trainer draws while it trains, always with the same seeds, "
            "so that you see it learn. One prompt per line, each with its own size, steps, CFG, seed and negative "
            "prompt if you like.",
            search_aliases=search_words("D2FSamplePrompts"),
            inputs=[
                io.Clip.Input("clip", tooltip="Text encoder of the checkpoint that is trained."),
                io.Vae.Input("vae", tooltip="VAE of the checkpoint: it decodes the samples at full quality."),
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default="",
                    tooltip="One prompt per line. Options at the end of a line, as in kohya's trainers: --n negative "
                    "prompt, --w width, --h height, --s steps, --l CFG, --d seed. Lines that start with # are left "
                    "out. Example: a red cube --w 512 --h 768 --s 20 --l 5 --d 42",
                ),
                io.String.Input(
                    "negative",
                    multiline=True,
                    default="",
                    tooltip="Negative prompt of lines without --n. It has no effect at a CFG of 1.",
                ),
                *(_pixels(letter) for letter in "wh"),
                _number("s", "Number of Euler steps of lines without --s."),
                _number("l", "Classifier-free guidance scale of lines without --l; 1 disables guidance, which halves "
                        "the time. Use 1 for a reflow LoRA."),
                seed_input("Seed of lines without --d: the same noise as in ComfyUI's KSampler."),
                grid_input(stock=False),
            ],
            outputs=[
                io.Custom("D2F_SAMPLES").Output(
                    display_name="samples",
                    tooltip="For 'samples' of the LoRA Trainer (Diff2Flow): prompts, already encoded, and the VAE.",
                )
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, prompts: str | None = None, grid: Any = None) -> bool | str:
        """Checked when the graph is queued; None is a value that comes through a wire. The host hands in the combo."""
        return prompts is None or fault_of(lambda: parse_prompts(prompts))

    @classmethod
    @checked()
    def execute(
        cls,
        clip,
        vae,
        prompts: str,
        negative: str,
        width: int,
        height: int,
        steps: int,
        cfg: float,
        seed: int,
        grid: dict[str, Any],
    ) -> io.NodeOutput:
        host.check_models(clip, vae)
        settings = {name: float(value) for name, value in grid.items() if name != "grid"}
        defaults = SamplePrompt("", negative, width, height, steps, float(cfg), seed, grid["grid"], **settings)
        parsed = parse_prompts(prompts, defaults, host.latent_factor(vae))
        return io.NodeOutput(encode_set(parsed, clip, vae))


def _pixels(letter: str) -> io.Int.Input:
    rule = OPTIONS[letter]
    return io.Int.Input(
        rule.field,
        default=getattr(SamplePrompt(), rule.field),
        min=int(rule.least),
        max=int(rule.most or 0),
        step=8,
        tooltip=f"{rule.field.capitalize()} in pixels of lines without --{letter}: 512 for SD1.5, 1024 for SDXL, 96 "
        "for the demo model.",
    )


def _number(letter: str, tooltip: str) -> io.Int.Input | io.Float.Input:
    rule = OPTIONS[letter]
    default = getattr(SamplePrompt(), rule.field)
    if rule.whole:
        return io.Int.Input(rule.field, default=default, min=int(rule.least), max=int(rule.most or 0), tooltip=tooltip)
    return io.Float.Input(
        rule.field, default=default, min=rule.least, max=rule.most, step=0.1, round=0.01, tooltip=tooltip
    )
