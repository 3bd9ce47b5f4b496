"""Progress of a running node: bar, text and preview pictures, and its end when ComfyUI is ended."""

import asyncio
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import comfy.model_management
import comfy.utils
import latent_preview
import torch
from comfy_execution.utils import get_executing_context
from torch import Tensor

LOGGER = logging.getLogger("diff2flow")
SECONDS_BETWEEN_TEXTS = 0.25
SECONDS_TO_SAVE = 60.0  # that a signal waits for the running node
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]

T = TypeVar("T")


class NodeProgress:
    """Progress bar and text of one node.

    Args:
        total: steps of the whole bar.
        node_id: the node's unique id, for the text; None for no text.
    """

    def __init__(self, total: int, node_id: str | None = None) -> None:
        self.bar = comfy.utils.ProgressBar(total)
        self.node_id = node_id
        self._said = 0.0

    def show(self, done: int, text: str, picture: Any | None = None) -> None:
        """Show ``done`` steps, a line of text and perhaps a PIL picture; raises the host's interrupt."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        size = max(picture.size) if picture is not None else 0
        self.bar.update_absolute(done, preview=None if picture is None else ("JPEG", picture, size))
        if picture is not None or done in (0, self.bar.total) or time.monotonic() - self._said > SECONDS_BETWEEN_TEXTS:
            self.say(text)

    def say(self, text: str) -> None:
        """Show a line of text, at once."""
        self._said = time.monotonic()
        _send_text(text, self.node_id)


def tell(text: str) -> None:
    """Write a remark to the log, and on the node that is running."""
    LOGGER.warning(text)
    running = get_executing_context()
    _send_text(text, None if running is None else running.node_id)


def settle(text: str) -> None:
    """Leave a text on the node that is running: as an output, for a node that ends without one.

    The page takes progress text away when a run ends; what it has been told of an output stays.
    """
    running, server = get_executing_context(), _server()
    if running is not None and server is not None:
        node, prompt = running.node_id, running.prompt_id
        told = {"node": node, "display_node": node, "output": {"text": [text]}, "prompt_id": prompt}
        server.send_sync("executed", told, server.client_id)


def _send_text(text: str, node_id: str | None) -> None:
    """Show a text on a node; nowhere without a node or a server."""
    server = _server()
    if node_id is not None and server is not None and hasattr(server, "send_progress_text"):
        server.send_progress_text(text, node_id)


def _server() -> Any | None:
    """The running server. Not imported: without one, nobody would see what it shows."""
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


class _Shutdown:
    """Handlers of the signals that end ComfyUI, which first cancel the running node and wait until it has saved.

    Python runs them in the main thread, that of the server; nodes run in another one, which ends with the process.
    """

    def __init__(self) -> None:
        self.over = threading.Event()
        self._before: dict[int, Any] = {}

    def install(self) -> None:
        if not self.over.is_set():
            self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}

    def restore(self) -> None:
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._handle:  # nobody has set another one since
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def _handle(self, number: int, frame: Any) -> None:
        self.restore()
        with suppress(RuntimeError):  # the signal came in the middle of writing another line
            LOGGER.warning("the running node saves its work before ComfyUI ends; press Ctrl-C again to end at once")
        comfy.model_management.interrupt_current_processing(True)
        self.over.wait(SECONDS_TO_SAVE)
        signal.raise_signal(number)


@contextmanager
def cancelled_on_shutdown() -> Iterator[None]:
    """While the block runs, Ctrl-C and SIGTERM cancel it, and end ComfyUI once it has saved its work.

    Without a server, or where its loop does not run in the main thread, signals act as they did.
    """
    shutdown = _Shutdown()
    _in_main_thread(shutdown.install)
    try:
        yield
    finally:
        shutdown.over.set()
        _in_main_thread(shutdown.restore)


def _in_main_thread(function: Callable[[], None]) -> None:
    """Call a function in the main thread, at once or soon, if that is the thread of the server."""

    def call() -> None:
        if threading.current_thread() is threading.main_thread():
            function()

    loop = getattr(_server(), "loop", None)
    if isinstance(loop, asyncio.AbstractEventLoop) and loop.is_running():
        with suppress(RuntimeError):  # it has just been closed
            loop.call_soon_threadsafe(call)


def track(steps: Iterable[T], total: int) -> Iterator[T]:
    """Yield the steps, with the host's progress bar; raises the host's interrupt between them."""
    bar = comfy.utils.ProgressBar(max(1, total))
    comfy.model_management.throw_exception_if_processing_interrupted()
    for number, step in enumerate(steps, 1):
        bar.update_absolute(number, max(1, total))
        yield step
        comfy.model_management.throw_exception_if_processing_interrupted()


@contextmanager
def tolerated(report: Callable[[Exception], None]) -> Iterator[None]:
    """An error in the block, out of memory among them, ends the block and is reported; an interrupt goes on."""
    try:
        yield
    except comfy.model_management.InterruptProcessingException:  # an Exception in some versions of the host
        raise
    except Exception as error:
        report(error)
        comfy.model_management.soft_empty_cache()


def quick_picture(model: Any, latent: Tensor) -> Any | None:
    """A rough PIL picture of a latent (1, C, h, w) in the model's scale; None if the host has no method for this model.

    Made on the CPU: from CUDA the host copies a preview without waiting for it, and may show what was in the memory
    before (Comfy-Org/ComfyUI#4183).
    """
    latent_format = model.model.latent_format
    previewer = latent_preview.get_previewer(torch.device("cpu"), latent_format)
    if previewer is None and latent_format.latent_rgb_factors is not None:
        previewer = latent_preview.Latent2RGBPreviewer(
            latent_format.latent_rgb_factors, latent_format.latent_rgb_factors_bias
        )
    return None if previewer is None else previewer.decode_latent_to_preview(latent.cpu())


def decode(vae: Any, samples: Tensor) -> Tensor:
    """IMAGE (B, H, W, 3) of latents as a LATENT holds them."""
    with torch.inference_mode():
        return vae.decode(samples).float().cpu()
