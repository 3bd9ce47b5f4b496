"""Load LoRA (Diff2Flow): MODEL + LoRA -> MODEL as the LoRA was trained."""

from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ...d2f_core import OBJECTIVES, PREDICTIONS, NoiseSchedule
from ...d2f_data.files.lora_file import LoraFacts, LoraModel, check_finite, load_lora
from ...d2f_data.fingerprints import schedule_fingerprint
from .. import host
from ..checks import UNCONNECTED, checked, fault_of
from ..widgets import TRAIN, search_words

NONE = "none"
NODE = "Load LoRA (Diff2Flow)"


class D2FLoadLora(io.ComfyNode):
    """Applies a LoRA and converts the model as the LoRA's metadata say."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="D2FLoadLora",
            display_name=NODE,
            category=TRAIN,
            description="Applies a LoRA to a model and, if it was trained as a flow matching LoRA, converts the model "
            "with the settings of the training: no 'Convert to Flow Matching' or 'Add Image Condition' is needed. "
            "The model goes to any sampler. LoRAs of other programs are applied without a conversion.",
            search_aliases=search_words("D2FLoadLora"),
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="Model that the LoRA was trained on, or a fine-tune of it. A model that is converted "
                    "already keeps its conversion, and a flow matching model stays as it is.",
                ),
                io.Combo.Input(
                    "lora",
                    options=[NONE, *host.lora_files()],
                    default=NONE,
                    tooltip="LoRA file in models/loras or output/loras. none: use the one connected to lora_model.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-100.0,
                    max=100.0,
                    step=0.01,
                    tooltip="Strength of the LoRA. 1: as it was trained. 0: only convert the model.",
                ),
                io.Custom("LORA_MODEL").Input(
                    "lora_model",
                    optional=True,
                    tooltip="LoRA directly from the trainer. If it is connected, the file is ignored.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="CLIP of the checkpoint, for a LoRA that was trained with text encoders.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="Model with the LoRA, converted to flow matching if the LoRA was trained that way.",
                ),
                io.String.Output(display_name="info", tooltip="What the LoRA says about itself and what was done."),
                io.Custom("LORA_MODEL").Output(
                    display_name="lora",
                    tooltip="The LoRA itself, for 'start_lora' of LoRA Trainer (Diff2Flow), which goes on from it. "
                    "That trainer takes the model without it: with this node's model, it would act twice.",
                ),
                io.Clip.Output(
                    display_name="clip",
                    tooltip="CLIP with the LoRA, for the prompts; nothing if none is connected.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, model=None, lora: str = NONE, strength: float = 1.0, lora_model=None, clip=None) -> str:
        """Changes with the file, so that an overwritten one is read again."""
        if lora == NONE:
            return NONE
        return host.file_state(lambda: host.lora_path(lora))

    @classmethod
    def validate_inputs(cls, lora: str | None = None, lora_model: Any = UNCONNECTED) -> bool | str:
        """Checked when the graph is queued; None is a value that comes through a wire."""
        return lora is None or lora_model is None or fault_of(lambda: _chosen_path(lora))

    @classmethod
    @checked("lora")
    def execute(cls, model, lora: str, strength: float, lora_model=None, clip=None) -> io.NodeOutput:
        chosen, name = _choose(lora, lora_model)
        facts = getattr(chosen, "facts", None)
        remarks = [] if facts is None else _compare(model, facts)
        for remark in remarks:
            host.tell(f"{name}: {remark}")
        patched, encoders = host.apply_to_both(model, clip, chosen, strength) if strength else (model, clip)
        seeing, added = _see(patched, facts)
        converted, deed = _convert(seeing, facts)
        cfg = 1.0 if facts is None else facts.training.get("teacher_cfg", 1.0)
        if strength and cfg != 1:
            converted = host.with_own_guidance(converted, float(cfg))
            deed += f"; sample it at CFG 1, as guidance at CFG {cfg:g} is part of it"
        windows = _windows(facts)
        if strength and windows > 1:
            converted = host.with_own_windows(converted, windows)
            deed += f"; sample it in {windows} steps, or a multiple of {windows}, with the grid uniform"
        deed = added + deed
        if clip is None and host.has_text_layers(chosen):
            remarks.append("its layers of the text encoders are left out; connect 'clip' to use them")
        host.LOGGER.info("%s: %s", name, deed)
        return io.NodeOutput(converted, "\n".join([name, *_describe(chosen, facts), deed, *remarks]), chosen, encoders)


def _windows(facts: LoraFacts | None) -> int:
    """Windows in as many steps of which a LoRA is sampled; 1 after a finish, which leads to the end from anywhere."""
    if facts is None or OBJECTIVES[facts.objective].is_consistent:
        return 1
    windows = facts.training.get("windows", 1)
    return windows if isinstance(windows, int) else 1


def _choose(lora: str, lora_model: Any) -> tuple[Any, str]:
    """The LoRA to use, and a name for it."""
    if lora_model is not None:
        _check_connected(lora_model)
        return lora_model, "connected LoRA"
    return load_lora(_chosen_path(lora)), lora


def _chosen_path(lora: str) -> Path:
    """Path of the LoRA. Raises ValueError if none is chosen, or it is gone."""
    if lora == NONE:
        raise ValueError("no LoRA is chosen: pick a file, or connect a LoRA to lora_model")
    return host.lora_path(lora)


def _check_connected(lora: Any) -> None:
    try:
        check_finite(lora)
    except ValueError as error:
        raise ValueError(f"the LoRA connected to lora_model cannot be used: {error}") from error


def _compare(model: Any, facts: LoraFacts) -> list[str]:
    """How the model differs from that of the training, in words.

    Raises:
        ValueError: the model has another prediction type than the LoRA was trained with, or no table for naive_fm.
    """
    rule = OBJECTIVES[facts.objective]
    if not rule.is_flow and host.is_native_flow(model):
        remark = "the LoRA was trained on a diffusion model, but this is a flow matching model of its own"
        return [f"{remark}; {host.FIND_OUT}"]
    alignment = host.alignment_of(model, NODE)
    if alignment.prediction != facts.prediction:
        raise ValueError(f"{_other_network(facts, alignment.prediction)}; {host.FIND_OUT}")
    if not rule.is_aligned and not isinstance(alignment.schedule, NoiseSchedule):
        raise ValueError(
            f"this LoRA was trained with the objective {facts.objective}, which counts the timesteps of a table, but "
            "this model has a continuous schedule; remove the ModelSampling node before this node, or choose the "
            f"checkpoint that the LoRA was trained on; {host.FIND_OUT}"
        )
    remarks = []
    if host.model_name(model) != facts.base_model:
        remarks.append(f"trained on {facts.base_model}, used on {host.model_name(model)}")
    if schedule_fingerprint(alignment.schedule, alignment.sigma_data) != facts.schedule:
        remarks.append(
            "trained under another noise schedule than this model's; put the ModelSampling node of the training "
            "(zero terminal SNR, EDM, flow) before this one with the same settings, or take it out"
        )
    settings = host.flow_settings(model) if host.is_converted(model) else None
    if rule.is_flow and rule.is_aligned and settings not in (None, (facts.start, facts.shift)):
        remarks.append(
            f"trained with start {facts.start} and shift {facts.shift:g}, but the model was converted with start "
            f"{settings[0]} and shift {settings[1]:g}, which is kept; remove '{host.NODE_NAME}' to use the LoRA's"
        )
    return remarks


def _other_network(facts: LoraFacts, found: str) -> str:
    """Why a LoRA of one prediction type is not for a model of another."""
    trained, used = f"{facts.prediction}-prediction", f"{found}-prediction"
    if PREDICTIONS[facts.prediction].is_flow:
        return (
            f"this LoRA was trained on a flow matching model, but this one is sampled as a diffusion model with {used}"
            "; if it is the checkpoint of the training, put ModelSamplingSD3 before this node, as in the training "
            f"(its shift was {facts.shift:g}); otherwise choose that checkpoint, or a fine-tune of it"
        )
    if PREDICTIONS[found].is_flow:
        return (
            f"this LoRA was trained on a diffusion model with {trained}, but this one is sampled as a flow matching "
            "model of its own; choose the checkpoint that the LoRA was trained on, or a fine-tune of it, and if this "
            "is one, remove the ModelSampling node before this node"
        )
    return (
        f"this LoRA was trained on a model with {trained}, but this one has {used}, so that the pictures would be "
        "noise; choose the checkpoint that it was trained on, or a fine-tune of it"
    )


def _see(model: Any, facts: LoraFacts | None) -> tuple[Any, str]:
    """The model with the image condition if the LoRA was trained with one, and a note about it."""
    if facts is None or facts.condition != "image" or host.widened(model):
        return model, ""
    return host.widen(model), "image condition added; "


def _convert(model: Any, facts: LoraFacts | None) -> tuple[Any, str]:
    """The model converted as the LoRA was trained, and a note about it."""
    if facts is None:
        return model, "not a Diff2Flow LoRA, so taken for one of a diffusion model: the model is not converted"
    rule = OBJECTIVES[facts.objective]
    if not rule.is_flow:
        return model, "trained as a diffusion model: the model is not converted"
    if host.is_converted(model) and not rule.is_aligned:
        raise ValueError(
            f"this LoRA was trained with the objective {facts.objective}, which needs a conversion of its own, but the "
            f"model is converted already; remove '{host.NODE_NAME}' before this node"
        )
    if host.is_converted(model):
        return model, "the model was converted already: its conversion is kept"
    if host.is_native_flow(model):
        return model, "trained on a flow matching model, which this one is: there is nothing to convert"
    converted = host.convert(model, facts.start, facts.shift, objective=facts.objective, node=NODE)
    return converted, f"converted to flow matching: start {facts.start}, shift {facts.shift:g}"


def _describe(lora: Any, facts: LoraFacts | None) -> list[str]:
    """The LoRA in one or two lines."""
    lines = [repr(LoraModel(lora, facts)).strip("<>")]
    if facts is not None:
        lines.append(f"trained on {facts.base_model} with {facts.prediction}-prediction, alpha {facts.alpha:g}")
    return lines
