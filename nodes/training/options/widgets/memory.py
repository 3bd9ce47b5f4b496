"""How the model is computed: the settings of Memory Options (Diff2Flow)."""

from comfy_api.latest import io

from .... import host


def memory_widgets() -> list[io.Input]:
    """Each is a field of ``TrainingPlan`` of the same name."""
    return [
        io.Boolean.Input(
            "checkpointing",
            default=False,
            tooltip="Gradient checkpointing: recomputes blocks in the backward pass. About a third slower, with a "
            "fraction of the memory. Switch it on for SDXL below 24 GB and for SD1.5 below 8 GB.",
        ),
        io.Combo.Input(
            "precision",
            options=list(host.COMPUTE_DTYPES),
            default="auto",
            tooltip="Data type of the model's computation; adapters are always float32. auto: the model's own. bf16 is "
            "the safest choice on recent GPUs; fp16 scales its gradients. A type other than the model's own needs a "
            "copy of its weights.",
        ),
        io.Boolean.Input(
            "compile",
            default=False,
            tooltip="Compile the model with torch.compile: the first steps take minutes, the others less time. For "
            "runs of many steps on a GPU. Needs Triton (on the CPU, a C++ compiler); without it, the run goes on "
            "uncompiled.",
        ),
        io.Boolean.Input(
            "offload",
            default=False,
            tooltip="Keep the frozen weights in the main memory; each comes to the graphics card just before it is "
            "used. The LoRA is the same, bit for bit. Slower, with a fraction of the memory: with checkpointing, SDXL "
            "at 1024 pixels fits 8 GB. Not together with compile.",
        ),
    ]
