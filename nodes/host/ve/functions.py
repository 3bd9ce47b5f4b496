"""Functions that nodes put around a converted model, each called in the coordinates that it was written for.

``Convert to Flow Matching`` changes the coordinates of a MODEL, so it matters on which side of it a function was put:

    before the conversion    it saw a diffusion model, and may have computed a window of sigma_ve: called in VE
    after it                 called in VE as well, unless the code that made it looks at ``model_sampling``, as repaired
                             CFG functions of newer hosts do: these saw a flow matching model and are called in s

The second holds for CFG functions. Patches of the network and wrappers are called in s unless they were made before the
conversion by code that looks at ``model_sampling``: only then can they hold a window of sigma_ve. Whether code does so
is read off the names in it; nothing depends on a list of nodes.
"""

import functools
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import comfy.patcher_extension
from torch import Tensor

from .coordinates import from_ve, state_from_ve, state_to_ve, to_ve, ve_model

_NAMES = {"model_sampling", "percent_to_sigma", "CONST"}
_ONE, _LISTS = (
    ("sampler_cfg_function", "sampler_calc_cond_batch_function"),
    ("sampler_pre_cfg_function", "sampler_post_cfg_function"),
)
_KINDS = comfy.patcher_extension.WrappersMP
# Kind of wrapper that is given a state and its sigma -> their positions among its arguments.
_POSITIONS = {_KINDS.PREDICT_NOISE: (0, 1), _KINDS.APPLY_MODEL: (0, 1), _KINDS.CALC_COND_BATCH: (2, 3)}


class Placed:
    """A function with the coordinates that it is called in."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = self.__wrapped__ = function
        self.__qualname__ = getattr(function, "__qualname__", type(function).__qualname__)


class InFlow(Placed):
    """A CFG function that is called in the coordinates of the flow."""

    def __call__(self, args: dict[str, Any]) -> Any:
        return self.function(args)


class InVe(Placed):
    """A CFG function that is called in VE coordinates; the host's protocol has x0 everywhere but in ``input - x0``."""

    def __call__(self, args: dict[str, Any]) -> Any:
        x_fm, s = args["input"], args["sigma"]
        x_ve, sigma = state_to_ve(x_fm, s), to_ve(s)
        own = {**args, "input": x_ve, "sigma": sigma, "model": ve_model(args["model"])}
        if "timestep" in args:
            own["timestep"] = sigma
        differences = isinstance(args.get("cond"), Tensor)
        if differences:
            own |= {"cond": x_ve - args["cond_denoised"], "uncond": x_ve - args["uncond_denoised"]}
        result = self.function(own)
        return x_fm - (x_ve - result) if differences else result


class _InVeExecutor:
    """The rest of a chain of wrappers, to be called with a state and a sigma in VE coordinates."""

    def __init__(self, executor: Any, at: tuple[int, int]) -> None:
        self.executor, self.at = executor, at

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.executor(*_moved(args, self.at, state_from_ve, from_ve), **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["executor"], name)


class WrapperInVe(Placed):
    """A wrapper that is given a state and its sigma in VE coordinates."""

    def __init__(self, function: Callable[..., Any], at: tuple[int, int]) -> None:
        super().__init__(function)
        self.at = at

    def __call__(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        return self.function(_InVeExecutor(executor, self.at), *_moved(args, self.at, state_to_ve, to_ve), **kwargs)


class PatchInVe(Placed):
    """A patch of the network that finds ``sigma_ve`` among the options that it is given."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        options = next((arg for arg in (*args, *kwargs.values()) if isinstance(arg, dict) and "sigmas" in arg), {})
        s = options.get("sigmas")
        if s is None:
            return self.function(*args, **kwargs)
        options["sigmas"] = to_ve(s)
        try:
            return self.function(*args, **kwargs)
        finally:
            options["sigmas"] = s


def _moved(args: tuple[Any, ...], at: tuple[int, int], state: Callable[..., Any], sigma: Callable[..., Any]) -> list:
    """Arguments with the state and the sigma at two positions in other coordinates."""
    moved = list(args)
    moved[at[0]], moved[at[1]] = state(args[at[0]], args[at[1]]), sigma(args[at[1]])
    return moved


def keep_before(converted: Any) -> None:
    """Call the functions on a MODEL that has just been converted as before the conversion; its own lists change."""
    cfg_functions_in_ve(converted.model_options)
    options = converted.model_options.get("transformer_options", {})
    for kind in ("patches", "patches_replace"):
        if kind in options:
            options[kind] = _mapped(options[kind], _patch_before)
    for kind, at in _POSITIONS.items():
        if kind in converted.wrappers:
            converted.wrappers[kind] = _mapped(converted.wrappers[kind], functools.partial(_wrapper_before, at))


def _wrapper_before(at: tuple[int, int], wrapper: Any) -> Any:
    return WrapperInVe(wrapper, at) if _made_with_sampling(wrapper) else wrapper


def _patch_before(patch: Any) -> Any:
    return PatchInVe(patch) if isinstance(patch, types.FunctionType) and _made_with_sampling(patch) else patch


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Nested dicts and lists with each of their other values changed."""
    if isinstance(value, Mapping):
        return {key: _mapped(one, change) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_mapped(one, change) for one in value)
    return change(value)


def place_cfg_functions(model_options: dict[str, Any]) -> None:
    """Give each CFG function its coordinates, in the model options of one run."""
    _change_cfg_functions(model_options, lambda one: InFlow(one) if looks_at_sampling(one) else InVe(one))


def cfg_functions_in_ve(model_options: dict[str, Any]) -> dict[str, Any]:
    """Model options whose CFG functions are called in VE coordinates, except for those that were placed before."""
    _change_cfg_functions(model_options, InVe)
    return model_options


def _change_cfg_functions(model_options: dict[str, Any], change: Callable[[Any], Any]) -> None:
    def placed(one: Any) -> Any:
        return one if isinstance(one, Placed) else change(one)

    for name in _ONE:
        if name in model_options:
            model_options[name] = placed(model_options[name])
    for name in _LISTS:
        if name in model_options:
            model_options[name] = [placed(one) for one in model_options[name]]


def looks_at_sampling(function: Any) -> bool:
    """Whether a function, or the code that made it, looks at ``model_sampling``."""
    return any(_mentions(code, True) for code in _codes(function))


def _made_with_sampling(function: Any) -> bool:
    """Whether the code that made a function looked at ``model_sampling`` when it did."""
    return any(_mentions(code, False) for code in _codes(function)[1:])


def _codes(function: Any) -> list[types.CodeType]:
    """The code of a function, and that of the outermost function in which it was defined."""
    function = getattr(function, "func", function)  # of a partial
    plain = getattr(function, "__func__", function)
    if not isinstance(plain, types.FunctionType):
        plain = next((vars(cls)["__call__"] for cls in type(function).__mro__ if "__call__" in vars(cls)), None)
    if not isinstance(plain, types.FunctionType):
        return []
    maker: Any = plain.__globals__
    for part in plain.__qualname__.split(".<locals>")[0].split("."):
        maker = maker.get(part) if isinstance(maker, dict) else getattr(maker, part, None)
    code = getattr(getattr(maker, "__func__", maker), "__code__", None)
    return [plain.__code__] + ([code] if isinstance(code, types.CodeType) and code is not plain.__code__ else [])


def _mentions(code: types.CodeType, inside: bool) -> bool:
    """Whether code mentions ``model_sampling``; with ``inside``, functions defined in it count as well."""
    texts: Iterable[Any] = (one for one in code.co_consts if isinstance(one, str))
    if _NAMES & {*code.co_names, *code.co_freevars, *texts}:
        return True
    return inside and any(_mentions(one, True) for one in code.co_consts if isinstance(one, types.CodeType))
