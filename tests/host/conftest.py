"""Small ComfyUI models with random weights, built from the host's own classes."""

import hashlib
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch


@pytest.fixture(scope="session")
def host(pack: ModuleType) -> ModuleType:
    """The pack's `nodes.host`."""
    return importlib.import_module(f"{pack.__name__}.nodes.host")


@pytest.fixture(scope="session")
def schemas(pack: ModuleType) -> dict[str, Any]:
    """{node id: schema} of the whole pack."""
    from devtools.schemas import load

    return load(pack)


@pytest.fixture(scope="session")
def node(pack: ModuleType) -> Callable[..., Any]:
    """`node("D2FConvert")` -> that class of the pack's nodes."""
    classes = {cls.__name__: cls for cls in importlib.import_module(f"{pack.__name__}.nodes").find_nodes()}
    return classes.__getitem__


@pytest.fixture(scope="session")
def part(pack: ModuleType) -> Callable[[str], ModuleType]:
    """`part("host.training")` -> that module of the pack's nodes."""
    return lambda name: importlib.import_module(f"{pack.__name__}.nodes.{name}")


@pytest.fixture(scope="session")
def stock(comfy: ModuleType) -> Callable[..., Any]:
    """`stock("model_advanced", "RescaleCFG")` -> that class of ComfyUI's own extra nodes."""
    return lambda module, name: getattr(importlib.import_module(f"comfy_extras.nodes_{module}"), name)


@pytest.fixture(scope="session")
def patch_nodes(comfy: ModuleType) -> ModuleType:
    """The module `patch_nodes.py`: `.find()` and `.put(node, model)` for the host's nodes that patch a MODEL."""
    spec = importlib.util.spec_from_file_location("patch_nodes", Path(__file__).with_name("patch_nodes.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def flow_models(comfy: ModuleType) -> ModuleType:
    """The module `flow_models.py`: `.make(kind, build)`, `.conditionings(kind)`, `.KINDS` of native flow models."""
    spec = importlib.util.spec_from_file_location("flow_models", Path(__file__).with_name("flow_models.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def definitions(server: Any) -> dict[str, Any]:
    """The server's definitions of all nodes."""
    return server.object_info()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """The models here are too small to share out; threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def inference_mode() -> Iterator[None]:
    """Nodes run under inference mode, so tests of nodes do, too."""
    with torch.inference_mode():
        yield


def build_model(
    model_type: str = "EPS",
    *,
    flow: bool = False,
    dtype: torch.dtype = torch.float32,
    computes: torch.dtype | None = None,
) -> Any:
    """A MODEL with a small UNet of SD's shape, 4 latent channels, context of 16; `computes` in another `dtype`."""
    import comfy.latent_formats
    import comfy.model_base
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models_base

    class Config(comfy.supported_models_base.BASE):
        unet_extra_config = {"num_heads": 2, "num_head_channels": -1}
        latent_format = comfy.latent_formats.SD15

    config = Config(
        {
            "image_size": 8,
            "in_channels": 4,
            "out_channels": 4,
            "model_channels": 32,
            "num_res_blocks": [1, 1],
            "channel_mult": [1, 2],
            "transformer_depth": [1, 1],
            "transformer_depth_middle": 1,
            "transformer_depth_output": [1, 1, 1, 1],
            "use_spatial_transformer": True,
            "context_dim": 16,
            "use_linear_in_transformer": False,
            "legacy": False,
        }
    )
    config.set_inference_dtype(dtype, computes)
    kind = comfy.model_base.ModelType.FLOW if flow else comfy.model_base.ModelType[model_type]
    model = comfy.model_base.BaseModel(config, model_type=kind)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.diffusion_model.named_parameters():
        is_scale = parameter.ndim == 1 and name.endswith("weight")
        values = torch.randn(parameter.shape, generator=generator) * (0.3 / max(1, parameter[0].numel()) ** 0.5)
        parameter.data.copy_(1 + 0.1 * values if is_scale else values)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


@pytest.fixture(scope="session")
def build(comfy: ModuleType) -> Callable[..., Any]:
    """`build(model_type)` -> MODEL with random weights."""
    return build_model


@pytest.fixture
def on_node(part: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The texts that the page is told to show on the node that runs, number 42; nothing else is shown to the user."""
    import comfy_execution.utils

    texts: list[str] = []

    def send_progress_text(text: str, node_id: str) -> None:
        assert node_id == "42"
        texts.append(text)

    def send_sync(event: str, told: dict[str, Any], client_id: str) -> None:
        assert (event, told["node"]) == ("executed", "42")
        texts.extend(told["output"]["text"])

    server = SimpleNamespace(send_progress_text=send_progress_text, send_sync=send_sync, client_id="page")
    monkeypatch.setattr(part("host.progress"), "_server", lambda: server)
    with comfy_execution.utils.CurrentNodeContext("a run", "42"):
        yield texts


@pytest.fixture
def eps_model(build: Callable[..., Any]) -> Any:
    return build("EPS")


@pytest.fixture
def v_model(build: Callable[..., Any]) -> Any:
    return build("V_PREDICTION")


def watch_network(model: Any, network: Callable[..., Any]) -> Any:
    """A clone of MODEL with `network(run, x_dm, timesteps)` around its UNet; `run()` is the UNet itself."""
    import comfy.patcher_extension

    def wrapper(executor: Any, x: torch.Tensor, timesteps: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return network(lambda: executor(x, timesteps, *args, **kwargs), x, timesteps)

    kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
    watched = model.clone()
    watched.add_wrapper(kind, wrapper)
    stack = watched.wrappers[kind][None]
    stack.insert(0, stack.pop())  # outermost
    return watched


@pytest.fixture(scope="session")
def watch(comfy: ModuleType) -> Callable[..., Any]:
    """`watch(model, network)` -> a clone whose UNet is called through `network(run, x_dm, timesteps)`."""
    return watch_network


@pytest.fixture(scope="session")
def gaussian(build: Callable[..., Any]) -> Callable[..., Any]:
    """`gaussian(model_type, std)` -> MODEL with the ideal network for Gaussian latents of that deviation.

    Its flow moves a state x at flow time t along x / sqrt(t^2 std^2 + (1 - t)^2) = const.
    """

    def make(model_type: str = "EPS", std: float = 0.5) -> Any:
        model = build(model_type)
        log_sigma = model.get_model_object("model_sampling").sigmas.double().log()

        def network(run: Any, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
            low = timesteps.long().clamp(max=len(log_sigma) - 2)
            ve = torch.lerp(log_sigma[low], log_sigma[low + 1], timesteps.double() - low).exp()
            ve = ve.reshape(-1, *(1,) * (x.ndim - 1))
            alpha, sigma = 1 / (1 + ve**2).sqrt(), ve / (1 + ve**2).sqrt()
            x0, eps = (weight * x / (alpha**2 * std**2 + sigma**2) for weight in (alpha * std**2, sigma))
            return (eps if model_type == "EPS" else alpha * eps - sigma * x0).to(x.dtype)

        return watch_network(model, network)

    return make


@pytest.fixture(scope="session")
def conditioning(comfy: ModuleType) -> tuple[Any, Any]:
    """Positive and negative CONDITIONING for the small models."""
    generator = torch.Generator().manual_seed(1)
    return tuple([[torch.randn(1, 7, 16, generator=generator), {}]] for _ in range(2))


@pytest.fixture
def sample(host: ModuleType, conditioning: Any) -> Callable[..., torch.Tensor]:
    """`sample(model, sigmas, sampler, **latent)` -> latents: CFG 3, seed 42, two items of 8x8."""

    def run(model: Any, sigmas: torch.Tensor, sampler: Any = "euler", cfg: float = 3.0, **latent: Any) -> torch.Tensor:
        import comfy.samplers

        latent.setdefault("samples", torch.zeros(2, 4, 8, 8))
        sampler = comfy.samplers.ksampler(sampler) if isinstance(sampler, str) else sampler
        return host.sample(model, latent, *conditioning, cfg, sampler, sigmas, 42)["samples"]

    return run


@pytest.fixture
def table_levels() -> Callable[..., torch.Tensor]:
    """`table_levels(model, steps)` -> descending sigma_ve of rows of the model's table, then 0."""

    def levels(model: Any, steps: int = 10) -> torch.Tensor:
        sigmas = model.get_model_object("model_sampling").sigmas
        rows = torch.linspace(len(sigmas) - 1, 0, steps).long()
        return torch.cat([sigmas[rows], torch.zeros(1)])

    return levels


@pytest.fixture(scope="session")
def fingerprint() -> Callable[[Any], str]:
    """`fingerprint(model)` -> hash of all that clones share: weights, buffers, hooks, flags, bound methods.

    The schedule in force is left out: the host itself swaps it when it loads a clone.
    """

    def hash_of(model: Any) -> str:
        digest = hashlib.sha256()
        module = model.model
        for name, tensor in sorted({**dict(module.named_parameters()), **dict(module.named_buffers())}.items()):
            if not name.startswith("model_sampling."):
                digest.update(f"{name} {tensor.requires_grad} {tensor.dtype}".encode())
                digest.update(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
        for name, part in module.diffusion_model.named_modules():
            hooks = [len(getattr(part, key)) for key in vars(part) if key.endswith("_hooks")]
            methods = sorted(key for key, value in vars(part).items() if callable(value) and key in dir(type(part)))
            digest.update(f"{name} {part.training} {hooks} {methods}".encode())
        digest.update(repr(sorted(map(str, model.patches))).encode())
        digest.update(repr((sorted(model.object_patches), str(model.model_options), model.wrappers)).encode())
        return digest.hexdigest()

    return hash_of


@pytest.fixture(scope="session")
def stock_sampling(stock: Callable[..., Any]) -> Callable[..., Any]:
    """`stock_sampling(model, "v_prediction", zsnr=True)` -> MODEL out of the stock node ModelSamplingDiscrete."""
    return lambda model, kind, zsnr=False: stock("model_advanced", "ModelSamplingDiscrete")().patch(model, kind, zsnr)[
        0
    ]


@pytest.fixture
def dynamic(build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """`dynamic(model_type, dtype=...)` -> a MODEL of the host's dynamic patcher, on the CPU."""
    import comfy.model_management
    import comfy.model_patcher
    import comfy.ops
    import comfy.utils

    if not hasattr(comfy.model_patcher, "ModelPatcherDynamic"):
        pytest.skip("this ComfyUI has no dynamic patcher")
    import comfy_aimdo.host_buffer

    patcher = comfy.model_patcher.ModelPatcherDynamic
    pinned = SimpleNamespace(size=0, truncate=lambda *args, **kwargs: None)
    monkeypatch.setattr(comfy_aimdo.host_buffer, "HostBuffer", lambda *args, **kwargs: pinned)
    monkeypatch.setattr(patcher, "__new__", lambda cls, *args, **kwargs: object.__new__(cls))

    def unload(self: Any, *args: Any, **kwargs: Any) -> int:
        """What the host's own method does where it does not refuse the CPU."""
        for key in list(self.backup):
            comfy.utils.set_attr_param(self.model, key, self.backup.pop(key).weight)
        for key in list(self.backup_buffers):
            comfy.utils.set_attr_buffer(self.model, key, self.backup_buffers.pop(key))
        return 0

    monkeypatch.setattr(patcher, "partially_unload", unload)
    cast, load = comfy.ops.cast_bias_weight, patcher.load

    def load_and_mark(self: Any, *args: Any, **kwargs: Any) -> None:
        """Note which layers are patched when they run: those that loading has not patched itself."""
        load(self, *args, **kwargs)
        for name, layer in self.model.named_modules():
            layer.patched_when_run = not {f"{name}.weight", f"{name}.bias"} & self.backup.keys()

    def cast_and_patch(layer: Any, *args: Any, **kwargs: Any) -> Any:
        """What a GPU's path does: large layers are patched when they run, by functions that loading leaves on them."""
        weight, bias, *rest = cast(layer, *args, **kwargs)
        if not getattr(layer, "patched_when_run", False):
            return weight, bias, *rest
        patched = [
            function(value.clone()) if value is not None and function is not None else value
            for value, function in (
                (weight, getattr(layer, "weight_lowvram_function", None)),
                (bias, getattr(layer, "bias_lowvram_function", None)),
            )
        ]
        return *patched, *rest

    monkeypatch.setattr(comfy.ops, "cast_bias_weight", cast_and_patch)
    monkeypatch.setattr(patcher, "load", load_and_mark)

    def make(model_type: str = "EPS", **types: Any) -> Any:
        plain = build(model_type, **types)
        return patcher(plain.model, plain.load_device, plain.offload_device)

    yield make
    comfy.model_management.unload_all_models()
