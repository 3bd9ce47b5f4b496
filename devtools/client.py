"""Talk to a running ComfyUI: queue a prompt, follow it over the WebSocket, collect what it made.

Prompts here are in the API's format: {node id: {"class_type": name, "inputs": {name: value or link}}}.
"""

from __future__ import annotations

import json
import mimetypes
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .console import DevError
from .websocket import WebSocket, WebSocketError

Prompt = dict[str, dict[str, Any]]
Event = dict[str, Any]


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
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def request(self, path: str, data: bytes | None = None, kind: str = "application/json") -> bytes:
        """The body of a reply; a POST if there is `data`. Raises urllib.error.HTTPError for 4xx and 5xx."""
        url = f"http://{self.address}:{self.port}{path}"
        request = urllib.request.Request(url, data, {"Content-Type": kind})
        with self.opener.open(request, timeout=60) as reply:
            return bytes(reply.read())

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
        name, mark = name or path.name, uuid.uuid4().hex
        mime = mimetypes.guess_type(name)[0] or "application/octet-stream"
        head = (
            f'--{mark}\r\nContent-Disposition: form-data; name="overwrite"\r\n\r\ntrue\r\n'
            f'--{mark}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
            f"Content-Type: {mime}\r\n\r\n"
        )
        data = head.encode() + path.read_bytes() + f"\r\n--{mark}--\r\n".encode()
        reply = json.loads(self.request("/upload/image", data, f"multipart/form-data; boundary={mark}"))
        return "/".join(part for part in (reply.get("subfolder"), reply["name"]) if part)

    def queue(self, prompt: Prompt, extra: dict[str, Any] | None = None) -> str:
        """Put a prompt into the queue; returns its id."""
        body = {"prompt": prompt, "client_id": self.id, "extra_data": extra or {}}
        try:
            return self.post("/prompt", body)["prompt_id"]
        except urllib.error.HTTPError as error:
            details = json.loads(error.read() or b"{}")
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
        channel = WebSocket(self.address, self.port, f"/ws?clientId={self.id}")
        try:
            result = Result(self.queue(prompt, extra), 0.0)
            self.listen(channel, result, on_event, start + seconds)
        finally:
            channel.close()
        result.seconds = time.monotonic() - start
        result.outputs = self.history(result.prompt_id).get("outputs", {})
        return result

    def listen(self, channel: WebSocket, result: Result, on_event: Callable[[Event], None], deadline: float) -> None:
        """Hear of a prompt, up to its end."""
        try:
            for event in self.follow(channel, result.prompt_id, deadline):
                result.messages.append(event)
                note_steps(result.steps, event)
                on_event(event)
        except PromptError:
            raise
        except BaseException:
            self.withdraw(result.prompt_id)
            raise

    def withdraw(self, prompt_id: str) -> None:
        """Take a prompt out of the queue, or stop it if it runs; nothing if ComfyUI is gone."""
        with suppress(OSError):
            self.post("/queue", {"delete": [prompt_id]})
            self.post("/interrupt", {"prompt_id": prompt_id})

    def follow(self, channel: WebSocket, prompt_id: str, deadline: float) -> Iterator[Event]:
        """The messages about a prompt, up to its end."""
        while time.monotonic() < deadline:
            event = self.next_event(channel)
            if event is None or event.get("data", {}).get("prompt_id") != prompt_id:
                continue
            yield event
            raise_failure(event)
            if event["type"] == "executing" and event["data"].get("node") is None:
                return
        raise DevError("The graph did not finish in time.")

    def next_event(self, channel: WebSocket) -> Event | None:
        try:
            text = channel.receive(timeout=2)
        except WebSocketError as error:
            raise DevError(f"The connection to ComfyUI broke: {error}.") from None
        if text is None and not self.alive():
            raise DevError("ComfyUI died while it ran the graph.")
        return json.loads(text) if text else None

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
