"""LoRA Trainer (Diff2Flow): MODEL, and LATENTs with CONDITIONINGs (and image conditions) or D2F_PAIRS -> LORA_MODEL."""

from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io

from ...d2f_core import FlowAlignment, Objective, objective_on
from ...d2f_data.files.names import check_name
from ...d2f_data.plots.loss_plot import plot_losses
from ...d2f_data.plots.pil_images import from_pil
from ...d2f_data.plots.sample_sheet import notice
from .. import host
from ..checks import checked, fault_of
from ..widgets import TRAIN, search_words
from .items import training_items, validation_items
from .options.trainer_options import TrainerOptions
from .outcome.report import Learned
from .run import TrainingRun
from .sockets import plan_of, text_encoder_socket, training_sockets
from .start import StartingLora
from .text.network import with_text
from .widgets import training_widgets


class D2FTrainLora(io.ComfyNode):
    """Unwraps its inputs, trains, wraps what was learned."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="D2FTrainLora",
            display_name="LoRA Trainer (Diff2Flow)",
            category=TRAIN,
            description="Fine-tunes a diffusion model as a flow matching model, or a flow matching model as it is, "
            "with a LoRA, inside the graph. It saves regularly, can be cancelled without losing anything, and resumes "
            "when it is run again.",
            search_aliases=search_words("D2FTrainLora"),
            is_input_list=True,
            is_output_node=True,
            accept_all_inputs=True,  # to refuse those that there are not; the host would drop them without a word
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="Diffusion model (SD1.5, SD2.1, SDXL, EDM), converted to flow matching or not, or a flow "
                    "matching model (a checkpoint of SDXL's or SD1.5's shape that is one needs ModelSamplingSD3 before "
                    "this node). The model itself is not changed; LoRAs applied before this node stay part of it.",
                ),
                *training_sockets(),
                *training_widgets(),
                text_encoder_socket(),
            ],
            outputs=[
                io.Custom("LORA_MODEL").Output(
                    display_name="lora",
                    tooltip="For Save LoRA (Diff2Flow), Load LoRA (Diff2Flow), and ComfyUI's own Load LoRA Model and "
                    "Save LoRA Weights.",
                ),
                io.Custom("LOSS_MAP").Output(
                    display_name="loss_map", tooltip="Loss of each step, for ComfyUI's Plot Loss Graph."
                ),
                io.Int.Output(
                    display_name="steps", tooltip="Number of steps trained, including those before a resume."
                ),
                io.Image.Output(
                    display_name="loss_plot", tooltip="Loss over steps, its running mean, and the validation loss."
                ),
                io.Image.Output(
                    display_name="sample_sheet",
                    tooltip="Contact sheet of the samples: a row per prompt, a column per step, from the untrained "
                    "model to the LoRA. Without samples, a small picture that says so.",
                ),
                io.String.Output(
                    display_name="report", tooltip="How the run ended, where the LoRA file is, and what to do next."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, run_name: Sequence[str | None] = (None,)) -> bool | str:
        """Checked when the graph is queued; None is a value that comes through a wire."""
        name = run_name[0]
        return name is None or fault_of(lambda: check_name(name, "the name of the training run"))

    @classmethod
    @checked()
    def execute(
        cls,
        model: list[Any],
        latents: list[dict[str, Any]] | None = None,
        positive: list[Any] | None = None,
        negative: list[Any] | None = None,
        validation_latents: list[dict[str, Any]] | None = None,
        validation_positive: list[Any] | None = None,
        vae: list[Any] | None = None,
        pairs: list[Any] | None = None,
        condition: list[dict[str, Any]] | None = None,
        validation_condition: list[dict[str, Any]] | None = None,
        samples: list[Any] | None = None,
        start_lora: list[Any] | None = None,
        options: list[TrainerOptions] | None = None,
        clip: list[Any] | None = None,
        **widgets: list[Any],
    ) -> io.NodeOutput:
        plan = plan_of({name: values[0] for name, values in widgets.items()}, options[0] if options else None)
        plan.check(has_negative=bool(negative), has_pairs=bool(pairs))
        start = StartingLora.of(start_lora[0]) if start_lora else None
        where = plan.precision, plan.checkpointing, plan.compile, plan.offload
        with host.training(model[0], *where) as network:
            check_objective(plan.objective, network.alignment)
            network = with_text(network, clip, pairs, plan.checkpointing)
            reflow = pairs[0] if pairs else None
            items = training_items(network, model[0], latents, positive, negative, reflow, condition)
            plan = plan.for_items(items)
            captions = validation_positive or positive
            validation = validation_items(network, validation_latents, captions, validation_condition)
            drawn, node_id = samples[0] if samples else None, cls.hidden.unique_id
            run = TrainingRun(model[0], network, items, validation, plan, vae and vae[0], node_id, drawn, start)
            learned = run.run()
        return cls.outputs(learned, f"{run.folder.name}: {run.trainer.objective.name} loss")

    @classmethod
    def outputs(cls, learned: Learned, title: str) -> io.NodeOutput:
        """What the node returns."""
        plot = plot_losses(learned.losses, learned.validation, title)
        sheet = learned.sheet or notice("no samples: connect Sample Prompts (Diff2Flow) to 'samples' of the trainer")
        losses = {"loss": plottable(learned.losses)}
        said = {"text": [learned.report], "loras": [learned.file]}
        results = (learned.lora, losses, len(learned.losses), plot, from_pil(sheet), learned.report)
        return io.NodeOutput(*results, ui=said)


def check_objective(name: str, alignment: FlowAlignment) -> None:
    """Raise ValueError if an objective makes no sense on a network; it says who finds out what the checkpoint is."""
    try:
        Objective(alignment, objective_on(alignment, name))
    except ValueError as error:
        raise ValueError(f"{error}; {host.FIND_OUT}") from error


def plottable(losses: list[float]) -> list[float]:
    """Losses for the host's Plot Loss Graph, which divides by their range: at least two different values."""
    if len(set(losses)) > 1:
        return losses
    value = losses[-1] if losses else 0.0
    return [*losses, value * (1 + 1e-6) + 1e-9] if losses else [value, 1e-9]
