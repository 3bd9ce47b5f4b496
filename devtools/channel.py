"""aiohttp, which ComfyUI itself requires, for callers that wait: it runs on an event loop in a thread of its own.

The caller's thread may have a running loop, as it has under playwright.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from functools import cache
from queue import Queue
from typing import Any, TypeVar

import aiohttp

T = TypeVar("T")
Event = dict[str, Any]
CLOSED: Event = {"type": "closed"}


@cache
def loop() -> asyncio.AbstractEventLoop:
    """The event loop of all clients, which runs as long as the process."""
    found = asyncio.new_event_loop()
    threading.Thread(target=found.run_forever, daemon=True).start()
    return found


def wait(call: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns, once it has; an interrupt cancels it."""
    future = asyncio.run_coroutine_threadsafe(call, loop())
    try:
        return future.result()
    finally:
        future.cancel()


@contextmanager
def listening(url: str) -> Iterator[Queue[Event]]:
    """What a server says over a WebSocket, from now on, as a queue; CLOSED when it hangs up."""
    events: Queue[Event] = Queue()
    connected = threading.Event()

    async def listen() -> None:
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.ws_connect(url, max_msg_size=0) as channel,
            ):
                connected.set()
                async for message in channel:
                    if message.type is aiohttp.WSMsgType.TEXT:  # pictures come as bytes
                        events.put(json.loads(message.data))
        finally:
            connected.set()
            events.put(CLOSED)

    future = asyncio.run_coroutine_threadsafe(listen(), loop())
    try:
        connected.wait()
        yield events
    finally:
        future.cancel()
