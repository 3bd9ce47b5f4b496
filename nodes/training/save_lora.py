"""Save LoRA (Diff2Flow): LORA_MODEL -> file."""

from comfy_api.latest import io

from ...d2f_data.files.lora_file import DTYPES, save_lora
from ...d2f_data.files.names import check_name, free_path
from .. import host
from ..checks import checked, fault_of
from ..widgets import TRAIN, search_words

SUFFIX = ".safetensors"


class D2FSaveLora(io.ComfyNode):
    """Writes a LoRA with the metadata of its training; every save gets a new number."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="D2FSaveLora",
            display_name="Save LoRA (Diff2Flow)",
            category=TRAIN,
            description="Saves a trained LoRA as a safetensors file in output/loras, where every LoRA loader finds it. "
            "It has kohya's layout, which other programs open as well. The metadata say how it was trained, so that "
            "'Load LoRA (Diff2Flow)' can convert the model to match. It never overwrites: each save gets a new number.",
            search_aliases=search_words("D2FSaveLora"),
            is_output_node=True,
            inputs=[
                io.Custom("LORA_MODEL").Input(
                    "lora",
                    tooltip="LoRA from the LoRA Trainer (Diff2Flow). One from ComfyUI's own trainer is saved as well, "
                    "without metadata of the training.",
                ),
                io.String.Input(
                    "filename",
                    default="diff2flow/my_lora",
                    tooltip="Name in output/loras, with / for subfolders. A number and .safetensors are appended.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(DTYPES),
                    default="fp16",
                    tooltip="Data type of the weights in the file. fp16 and bf16 halve its size; fp32 is exact.",
                ),
                io.Int.Input(
                    "steps",
                    optional=True,
                    default=0,
                    min=0,
                    max=10**9,
                    tooltip="Number of training steps, for the file name (my_lora_500_steps_00001). 0 leaves it out.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="path", tooltip="Full path of the file that was written."),
            ],
        )

    @classmethod
    def validate_inputs(cls, filename: str | None = None) -> bool | str:
        """Checked when the graph is queued; None is a value that comes through a wire."""
        return filename is None or fault_of(lambda: _checked_name(filename))

    @classmethod
    @checked()
    def execute(cls, lora, filename: str, dtype: str, steps: int = 0) -> io.NodeOutput:
        name = _checked_name(filename)
        if getattr(lora, "facts", None) is None:
            host.LOGGER.warning(
                "this LoRA has no metadata of its training (it is not from the LoRA Trainer (Diff2Flow)), so neither "
                "will its file, and 'Load LoRA (Diff2Flow)' will not convert the model"
            )
        stem = f"{name}_{steps}_steps" if steps else name
        path = free_path(host.lora_folder(), stem, SUFFIX)
        save_lora(path, lora, title=path.stem, dtype=dtype)
        listed = path.relative_to(host.lora_folder()).as_posix()
        return io.NodeOutput(str(path), ui={"text": [str(path)], "loras": [listed]})


def _checked_name(filename: str) -> str:
    """The name of the file without its suffix. Raises ValueError if it is invalid."""
    return check_name(filename.removesuffix(SUFFIX), "the LoRA's file name")
