"""Talk to a running ComfyUI: queue a prompt, follow it over the WebSocket, collect what it made.

Prompts here are in the API's format: {node id: {"class_type": name, "inputs": {name: value or link}}}.
"""

from __future__ import annotations

import json
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import aiohttp

from .channel import CLOSED, Event, listening, wait
from .console import DevError
from .prompts import Prompt


class RequestError(DevError):
    """ComfyUI answered a request with an error; `status` and `body` are those of the answer."""

    def __init__(self, path: str, status: int, body: bytes) -> None:
        super().__init__(f"ComfyUI answered {path} with {status}: {body[:200].decode(errors='replace')}")
        self.status, self.body = status, body


class PromptError(DevError):
    """ComfyUI refused a prompt, or a node of it failed; `details` is what ComfyUI said."""

    def __init__(self, message: str, details: dict[str, Any]) -> None:
        super().__init__(message)
        self.details = details


class Interrupted(PromptError):
    """The prompt was interrupted."""


@dataclass
class Result:
    """What a prompt gave.

    outputs     {node id: {"images": [...], ...}} as in ComfyUI's history
    steps       {node id: what the node's progress bar counted to}
    messages    every WebSocket message about this prompt, in order
    """

    prompt_id: str
    seconds: float
    outputs: dict[str, Any] = field(default_factory=dict)
    steps: dict[str, float] = field(default_factory=dict)
    messages: list[Event] = field(default_factory=list)

    def images(self, kind: str = "output") -> list[dict[str, str]]:
        """Every image that was made, as {"filename", "subfolder", "type"}."""
        found = [image for output in self.outputs.values() for image in output.get("images", [])]
        return [image for image in found if image.get("type") == kind]


class Client:
    """A client of the ComfyUI at `address:port`. `alive` tells whether that server still runs."""

    def __init__(self, address: str, port: int, alive: Callable[[], bool] = lambda: True) -> None:
        self.address, self.port, self.alive = address, port, alive
        self.id = uuid.uuid4().hex

    def request(self, path: str, data: Any = None, kind: str | None = "application/json") -> bytes:
        """The body of a reply; a POST if there is `data`. Raises RequestError for 4xx and 5xx."""

        async def call() -> bytes:
            method, headers = "GET" if data is None else "POST", {"Content-Type": kind} if kind and data else {}
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as session,
                session.request(method, self.place(path), data=data, headers=headers) as reply,
            ):
                body = await reply.read()
                if reply.status >= 400:
                    raise RequestError(path, reply.status, body)
                return body

        return wait(call())

    def place(self, path: str) -> str:
        return f"http://{self.address}:{self.port}{path}"

    def get(self, path: str) -> Any:
        return json.loads(self.request(path))

    def post(self, path: str, body: Any) -> Any:
        reply = self.request(path, json.dumps(body).encode())
        return json.loads(reply) if reply else None

    def object_info(self, node: str | None = None) -> dict[str, Any]:
        """The definitions of all nodes, or of one."""
        return self.get("/object_info" + (f"/{urllib.parse.quote(node)}" if node else ""))

    def interrupt(self) -> None:
        self.post("/interrupt", {})

    def view(self, image: dict[str, str]) -> bytes:
        """The bytes of an image of a `Result`."""
        return self.request("/view?" + urllib.parse.urlencode(image))

    def upload_image(self, path: Path, name: str | None = None) -> str:
        """Put an image into the input folder; returns the name a LoadImage node takes."""
        form = aiohttp.FormData({"overwrite": "true"})
        form.add_field("image", path.read_bytes(), filename=name or path.name)
        reply = json.loads(self.request("/upload/image", form, None))
        return "/".join(part for part in (reply.get("subfolder"), reply["name"]) if part)

    def queue(self, prompt: Prompt, extra: dict[str, Any] | None = None) -> str:
        """Put a prompt into the queue; returns its id."""
        try:
            return self.post("/prompt", {"prompt": prompt, "client_id": self.id, "extra_data": extra or {}})[
                "prompt_id"
            ]
        except RequestError as error:
            details = json.loads(error.body or b"{}")
            raise PromptError(f"ComfyUI refused the graph: {refusal(details)}", details) from None

    def run(
        self,
        prompt: Prompt,
        on_event: Callable[[Event], None] = lambda event: None,
        extra: dict[str, Any] | None = None,
        seconds: float = 3600,
    ) -> Result:
        """Queue a prompt and wait for its end; `on_event` sees each message (`{"type", "data"}`).

        Raises PromptError when ComfyUI refuses it or a node fails, Interrupted when someone stopped it. Whatever else
        ends the waiting, the prompt is stopped, so that those of others need not wait for it.
        """
        start = time.monotonic()
        with listening(self.place(f"/ws?clientId={self.id}")) as events:
            result = Result(self.queue(prompt, extra), 0.0)
            try:
                for event in self.follow(events, result.prompt_id, start + seconds):
                    result.messages.append(event)
                    note_steps(result.steps, event)
                    on_event(event)
            except PromptError:
                raise
            except BaseException:
                self.withdraw(result.prompt_id)
                raise
        result.seconds = time.monotonic() - start
        result.outputs = self.history(result.prompt_id).get("outputs", {})
        return result

    def withdraw(self, prompt_id: str) -> None:
        """Take a prompt out of the queue, or stop it if it runs; nothing if ComfyUI is gone."""
        with suppress(OSError, aiohttp.ClientError, RequestError):
            self.post("/queue", {"delete": [prompt_id]})
            self.post("/interrupt", {"prompt_id": prompt_id})

    def follow(self, events: Queue[Event], prompt_id: str, deadline: float) -> Iterator[Event]:
        """The messages about a prompt, up to its end."""
        while time.monotonic() < deadline:
            try:
                event = events.get(timeout=2)
            except Empty:
                event = {}
            if event == CLOSED or not self.alive():
                died = "The connection to ComfyUI broke" if self.alive() else "ComfyUI died"
                raise DevError(f"{died} while it ran the graph.")
            if event.get("data", {}).get("prompt_id") == prompt_id:
                yield event
                raise_failure(event)
                if event["type"] == "executing" and event["data"].get("node") is None:
                    return
        raise DevError("The graph did not finish in time.")

    def history(self, prompt_id: str, seconds: float = 10) -> dict[str, Any]:
        """ComfyUI's record of a finished prompt, which may come a moment after its last message."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            record = self.get(f"/history/{prompt_id}").get(prompt_id)
            if record is not None:
                return record
            time.sleep(0.05)
        raise DevError(f"ComfyUI has no record of the prompt {prompt_id}.")


def note_steps(steps: dict[str, float], event: Event) -> None:
    """Remember how far each node's progress bar counts."""
    data = event["data"]
    if event["type"] == "progress" and data.get("node") is not None:
        steps[str(data["node"])] = data["max"]


def raise_failure(event: Event) -> None:
    data = event["data"]
    if event["type"] == "execution_error":
        message = data.get("exception_message", "").strip()
        raise PromptError(f"{data.get('node_type')} (node {data.get('node_id')}) failed: {message}", data)
    if event["type"] == "execution_interrupted":
        raise Interrupted("The graph was interrupted.", data)


def refusal(details: dict[str, Any]) -> str:
    """ComfyUI's answer to a prompt it does not take, as one sentence."""
    reasons = []
    for node_id, node in (details.get("node_errors") or {}).items():
        for error in node.get("errors", []):
            name = f"{node.get('class_type')} (node {node_id})"
            reasons.append(f"{name}: {error.get('message')} {error.get('details', '')}".strip())
    error = details.get("error") or {}
    main = f"{error.get('message', '')} {error.get('details', '')}".strip() if isinstance(error, dict) else str(error)
    return "; ".join(reasons) or main or "no reason given"
