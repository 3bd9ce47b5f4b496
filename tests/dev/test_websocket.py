"""The WebSocket client: frames, and a conversation with a small server."""

import io
import socket
import threading

import pytest

from devtools.websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    WebSocket,
    WebSocketError,
    accept_key,
    decode_frame,
    encode_frame,
)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
@pytest.mark.parametrize("mask", [None, b"\x01\x02\x03\x04"])
def test_a_frame_survives_the_round_trip(size, mask):
    payload = bytes(i % 251 for i in range(size))
    frame = encode_frame(TEXT, payload, mask)
    assert decode_frame(io.BytesIO(frame).read) == (True, TEXT, payload)


def test_frames_are_those_of_the_standard():
    """The examples of RFC 6455, sections 5.7 and 1.3."""
    assert encode_frame(TEXT, b"Hello") == bytes.fromhex("810548656c6c6f")
    masked = bytes.fromhex("818537fa213d7f9f4d5158")
    assert encode_frame(TEXT, b"Hello", bytes.fromhex("37fa213d")) == masked
    assert accept_key(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def answer(server: socket.socket, frames: bytes, heard: list) -> None:
    """Accept one client, send `frames`, and note the first frame that comes back."""
    connection, _ = server.accept()
    with connection:
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(4096)
        key = next(line.split(b": ")[1] for line in head.split(b"\r\n") if line.startswith(b"Sec-WebSocket-Key"))
        accept = b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: " + accept_key(key) + b"\r\n\r\n"
        connection.sendall(accept + frames)
        heard.append(decode_frame(connection.makefile("rb").read))


def test_a_conversation():
    frames = (
        encode_frame(PING, b"p")
        + encode_frame(BINARY, b"preview")
        + encode_frame(TEXT, b"one")
        + encode_frame(TEXT, b"tw", final=False)
        + encode_frame(CONTINUATION, b"o")
        + encode_frame(CLOSE, b"")
    )
    heard: list = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer, args=(server, frames, heard))
        thread.start()
        client = WebSocket("127.0.0.1", server.getsockname()[1], "/ws")
        assert [client.receive(5), client.receive(5)] == ["one", "two"]
        with pytest.raises(WebSocketError, match="closed"):
            client.receive(5)
        client.close()
        thread.join()
    assert heard == [(True, PONG, b"p")]


def test_silence_is_none_and_not_an_error():
    heard: list = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer, args=(server, b"", heard))
        thread.start()
        client = WebSocket("127.0.0.1", server.getsockname()[1], "/ws")
        assert client.receive(0.05) is None
        client.close()
        thread.join()
