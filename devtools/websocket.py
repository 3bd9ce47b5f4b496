"""A WebSocket client in the small: text, ping and close frames over an unencrypted socket (RFC 6455).

A frame is: FIN bit and opcode; MASK bit and length (7 bits, or 126 and 16 bits, or 127 and 64 bits);
a 4-byte mask if the MASK bit is set (a client must, a server must not); the payload.
"""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import struct
from collections.abc import Callable

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class WebSocketError(OSError):
    """The other side does not speak WebSocket, or hung up."""


def encode_frame(opcode: int, payload: bytes, mask: bytes | None = None, final: bool = True) -> bytes:
    """One frame; a client passes four random bytes as `mask`."""
    bit = 0x80 if mask else 0
    if len(payload) < 126:
        length = struct.pack("!B", bit | len(payload))
    elif len(payload) < 1 << 16:
        length = struct.pack("!BH", bit | 126, len(payload))
    else:
        length = struct.pack("!BQ", bit | 127, len(payload))
    body = mask + apply_mask(payload, mask) if mask else payload
    return bytes([(0x80 if final else 0) | opcode]) + length + body


def apply_mask(payload: bytes, mask: bytes) -> bytes:
    return bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


def decode_frame(read: Callable[[int], bytes]) -> tuple[bool, int, bytes]:
    """The next frame as (final, opcode, payload); `read(n)` returns exactly n bytes."""
    first, second = read(2)
    length = second & 0x7F
    if length == 126:
        (length,) = struct.unpack("!H", read(2))
    elif length == 127:
        (length,) = struct.unpack("!Q", read(8))
    mask = read(4) if second & 0x80 else None
    payload = read(length)
    return bool(first & 0x80), first & 0x0F, apply_mask(payload, mask) if mask else payload


def accept_key(key: bytes) -> bytes:
    """What a server answers to a client's `Sec-WebSocket-Key`."""
    return base64.b64encode(hashlib.sha1(key + MAGIC).digest())


class WebSocket:
    """A connection; `receive` gives the text messages one by one."""

    def __init__(self, host: str, port: int, path: str, timeout: float = 10) -> None:
        self.socket = socket.create_connection((host, port), timeout)
        self.buffer = b""
        try:
            self._handshake(f"{host}:{port}", path)
        except BaseException:
            self.socket.close()
            raise

    def _handshake(self, host: str, path: str) -> None:
        key = base64.b64encode(os.urandom(16))
        lines = [f"GET {path} HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade",
                 f"Sec-WebSocket-Key: {key.decode()}", "Sec-WebSocket-Version: 13", "", ""]
        self.socket.sendall("\r\n".join(lines).encode())
        while b"\r\n\r\n" not in self.buffer:
            self._fill()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        if b" 101 " not in head.split(b"\r\n")[0] or accept_key(key) not in head:
            raise WebSocketError(f"no WebSocket at {host}{path}: {head[:60]!r}")

    def _fill(self) -> None:
        data = self.socket.recv(1 << 16)
        if not data:
            raise WebSocketError("the server closed the connection")
        self.buffer += data

    def _read(self, count: int) -> bytes:
        while len(self.buffer) < count:
            self._fill()
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def send(self, opcode: int, payload: bytes) -> None:
        self.socket.sendall(encode_frame(opcode, payload, os.urandom(4)))

    def receive(self, timeout: float | None = None) -> str | None:
        """The next text message; None when none begins within `timeout` seconds.

        Pings are answered; binary messages (preview images) are passed over.
        """
        kind = TEXT
        parts: list[bytes] = []
        while True:
            if not parts and not self._pending(timeout):
                return None
            final, opcode, payload = decode_frame(self._read)
            if opcode == PING:
                self.send(PONG, payload)
            elif opcode == CLOSE:
                raise WebSocketError("the server closed the connection")
            elif opcode in (TEXT, BINARY, CONTINUATION):
                kind = opcode or kind
                parts.append(payload)
                if final and kind == TEXT:
                    return b"".join(parts).decode("utf-8")
                parts = [] if final else parts

    def _pending(self, timeout: float | None) -> bool:
        """Whether a frame begins within `timeout`; what has begun is then read with patience."""
        self.socket.settimeout(timeout)
        try:
            if not self.buffer:
                self._fill()
        except TimeoutError:
            return False
        finally:
            self.socket.settimeout(60)
        return True

    def close(self) -> None:
        try:
            self.send(CLOSE, b"")
        except OSError:
            pass
        finally:
            self.socket.close()
