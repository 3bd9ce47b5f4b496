"""The trainer node outside of a server, on the small models, with an output folder of its own."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

# What the tests do not say: few steps, small adapters, nothing on the way.
QUICK = {
    "steps": 3,
    "rank": 2,
    "targets": "attention",
    "learning_rate": 1e-2,
    "batch_size": 2,
    "save_every": 0,
    "preview_every": 0,
}


@pytest.fixture
def output(comfy: ModuleType, tmp_path: Path) -> Iterator[Path]:
    """The host's output folder, a new one for each test."""
    import folder_paths

    before = folder_paths.get_output_directory()
    folder_paths.set_output_directory(str(tmp_path))
    yield tmp_path
    folder_paths.set_output_directory(before)


@pytest.fixture
def saved(output: Path) -> Callable[..., list[Path]]:
    """`saved()` -> the LoRA files of all saves so far, by name; `saved("a*")` -> some of them."""
    runs = output / "diff2flow" / "runs"
    return lambda pattern="*": sorted(runs.glob(f"*/loras/{pattern}.safetensors"), key=lambda path: path.name)


@pytest.fixture
def loaders_list(output: Path) -> Callable[[], list[str]]:
    """`loaders_list()` -> names of the files where loaders look for the LoRAs of runs."""
    return lambda: sorted(path.name for path in (output / "loras" / "diff2flow").glob("*"))


@pytest.fixture(scope="session")
def latents() -> torch.Tensor:
    """Five items of 8x8."""
    return torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def train(
    node: Callable[..., Any], part: Any, output: Path, latents: torch.Tensor, conditioning: Any
) -> Callable[..., Any]:
    """`train(model, latents=..., positive=..., steps=4, ...)` -> lora, loss map, steps, plot, sheet and report.

    Settings that the trainer has no widget for go through its options; `clip` is one if it is a number. Inputs that are
    lists are given as they are, others as the list of one that the host makes of them.
    """
    trainer = node("D2FTrainLora")
    widgets = {widget.id: widget.default for widget in part("training.widgets").training_widgets()}
    inputs = ("negative", "validation_latents", "validation_positive", "vae", "pairs", "condition")
    inputs += ("validation_condition", "samples", "start_lora", "clip")
    options = part("training.options.trainer_options")
    defaults = options.option_defaults()

    def run(model: Any, latents: Any = latents, positive: Any = conditioning[0], **given: Any) -> Any:
        sockets = {name for name, value in given.items() if name in inputs and not isinstance(value, float)}
        settings = {**QUICK, **{name: value for name, value in given.items() if name not in sockets}}
        values = {**widgets, **{name: value for name, value in settings.items() if name not in defaults}}
        chosen = {name: value for name, value in settings.items() if name in defaults}
        linked = {name: listed(value) for name, value in given.items() if name in sockets}
        trainer.hidden = SimpleNamespace(unique_id="7")
        wrapped = {name: [value] for name, value in values.items()} | {"options": [options.TrainerOptions(chosen)]}
        return trainer.execute([model], listed(latents), listed(positive), **linked, **wrapped).result

    def listed(value: Any) -> list[Any] | None:
        """What the host hands to a node that takes lists: LATENTs of bare tensors, a CONDITIONING as a list of one."""
        if value is None:
            return None
        if isinstance(value, torch.Tensor):
            return [{"samples": value}]
        entry = value[0] if isinstance(value, list) and value else None
        is_conditioning = isinstance(entry, list) and entry and isinstance(entry[0], torch.Tensor)
        return [value] if is_conditioning or not isinstance(value, list) else value

    return run


@pytest.fixture
def unharmed(
    fingerprint: Callable[..., str], sample: Callable[..., Any], table_levels: Callable[..., Any]
) -> Callable[[Any], AbstractContextManager[None]]:
    """`with unharmed(model): ...`: all that clones share is as it was, and the host serves the next prompt."""
    import comfy.model_management

    @contextmanager
    def watch(model: Any) -> Iterator[None]:
        levels = table_levels(model, 2)
        before = sample(model, levels), fingerprint(model)
        yield
        assert comfy.model_management.in_training is False
        assert fingerprint(model) == before[1]
        assert torch.equal(sample(model, levels), before[0])

    return watch


@pytest.fixture
def around_network(part: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`around_network(f)`: from now on `f(call, network, x)` stands for the trained network; `call()` is the network.

    `network` is the pack's `TrainingNetwork`, whose private modules may be given hooks.
    """
    cls = part("host.training").TrainingNetwork
    original = cls.__call__

    def install(function: Callable[..., Any]) -> None:
        def replaced(self: Any, x: torch.Tensor, *others: Any) -> torch.Tensor:
            return function(lambda: original(self, x, *others), self, x)

        monkeypatch.setattr(cls, "__call__", replaced)

    return install


def same_lora(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[key]) for key, tensor in one.items())


@pytest.fixture(scope="session")
def same() -> Callable[[Any, Any], bool]:
    """`same(lora, lora)`: bit for bit."""
    return same_lora


@pytest.fixture
def shown(part: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that the node shows, as they come."""
    texts: list[str] = []
    progress = part("host.progress").NodeProgress
    show = progress.show
    monkeypatch.setattr(
        progress, "show", lambda self, done, text, picture=None: texts.append(text) or show(self, done, text, picture)
    )
    return texts


@pytest.fixture
def small_sdxl(comfy):
    """`small_sdxl(pooled)` -> a MODEL of the class SDXL with a small UNet, for a pooled text of that width."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    def make(pooled):
        config = comfy.supported_models.SDXL(
            {
                "image_size": 8, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1],
                "channel_mult": [1, 2], "transformer_depth": [0, 1], "transformer_depth_middle": 1,
                "transformer_depth_output": [0, 0, 1, 1], "context_dim": 16, "use_linear_in_transformer": True,
                "num_heads": 2, "num_head_channels": -1, "adm_in_channels": pooled + 1536, "num_classes": "sequential",
                "use_spatial_transformer": True, "legacy": False,
            }
        )  # fmt: skip
        config.set_inference_dtype(torch.float32, None)
        model = comfy.model_base.SDXL(config, model_type=comfy.model_base.ModelType.EPS)
        generator = torch.Generator().manual_seed(2)
        for parameter in model.diffusion_model.parameters():
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
        cpu = torch.device("cpu")
        return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)

    return make
