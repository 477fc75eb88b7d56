"""A chat server that follows the published API of OpenAI, Anthropic or Ollama, and misbehaves on demand.

`mode` says how it answers a chat: `good`, one of `MISBEHAVIOURS`, or a list of them, one a request.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

GOOD = json.dumps({"explanation": 'Fires on the word "token". It stands anywhere in a text.', "keywords": ["token"]})
CANARY = "sk-canary-5f1c"
MISBEHAVIOURS = (
    "slow",
    "silent",
    "drip",
    "429",
    "500",
    "garbage",
    "cut",
    "cut_clean",
    "endless",
    "wrong_schema",
    "not_json",
    "length",
    "redirect",
    "huge",
    "html",
    "gzip",
    "401",
    "404",
    "reset",
    "error_inside",
)


def openai_pieces(text: str, finish: str = "stop") -> Iterator[bytes]:
    def event(choices: list[Any], usage: Any = None) -> bytes:
        body = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": choices}
        return f"data: {json.dumps({**body, 'usage': usage})}\n\n".encode()

    for start in range(0, len(text), 9):
        yield event([{"index": 0, "delta": {"content": text[start : start + 9]}, "finish_reason": None}])
    yield event([{"index": 0, "delta": {}, "finish_reason": finish}])
    yield event([], {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10})
    yield b"data: [DONE]\n\n"


def anthropic_pieces(text: str, finish: str = "stop") -> Iterator[bytes]:
    reason = {"stop": "end_turn", "length": "max_tokens"}[finish]

    def event(kind: str, **body: Any) -> bytes:
        return f"event: {kind}\ndata: {json.dumps({'type': kind, **body})}\n\n".encode()

    yield event("message_start", message={"id": "1", "usage": {"input_tokens": 7, "output_tokens": 1}})
    yield event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    yield event("ping")
    for start in range(0, len(text), 9):
        yield event("content_block_delta", index=0, delta={"type": "text_delta", "text": text[start : start + 9]})
    yield event("content_block_stop", index=0)
    yield event("message_delta", delta={"stop_reason": reason}, usage={"output_tokens": 3})
    yield event("message_stop")


def ollama_pieces(text: str, finish: str = "stop") -> Iterator[bytes]:
    def line(**body: Any) -> bytes:
        return json.dumps({"model": "m:latest", "created_at": "2025-01-01T00:00:00Z", **body}).encode() + b"\n"

    for start in range(0, len(text), 9):
        yield line(message={"role": "assistant", "content": text[start : start + 9]}, done=False)
    end = {"prompt_eval_count": 7, "eval_count": 3, "total_duration": 5}
    yield line(message={"role": "assistant", "content": ""}, done=True, done_reason=finish, **end)


PROTOCOLS: dict[str, tuple[Callable[..., Iterator[bytes]], str, bytes]] = {
    "openai": (openai_pieces, "text/event-stream", b'data: {"error": {"message": "sk-canary-5f1c"}}\n\n'),
    "anthropic": (
        anthropic_pieces,
        "text/event-stream",
        b'event: error\ndata: {"type": "error", "error": {"type": "api_error", "message": "sk-canary-5f1c"}}\n\n',
    ),
    "ollama": (ollama_pieces, "application/x-ndjson", b'{"error": "sk-canary-5f1c"}\n'),
}


WHOLE: dict[str, dict[str, Any]] = {
    "openai": {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": GOOD}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    },
    "anthropic": {
        "type": "message",
        "content": [{"type": "text", "text": GOOD}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 7, "output_tokens": 3},
    },
    "ollama": {
        "message": {"role": "assistant", "content": GOOD},
        "done": True,
        "done_reason": "stop",
        "prompt_eval_count": 7,
        "eval_count": 3,
    },
}


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    protocol_version = "HTTP/1.1"
    server: ChatServer

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        self.server.seen.append((self.path, dict(self.headers), {}))
        if self.server.mode == "401":
            return self.reply(401, b'{"error": {"message": "sk-canary-5f1c"}}')
        if self.path.startswith("/api/ps"):
            return self.reply(200, json.dumps({"models": self.server.loaded}).encode())
        if self.path.startswith("/api/"):
            return self.reply(
                200, json.dumps({"models": [{"name": m, "size": 42} for m in self.server.models]}).encode()
            )
        data = [{"id": m, "type": "model", "max_model_len": self.server.context} for m in self.server.models]
        return self.reply(200, json.dumps({"object": "list", "data": data, "has_more": False}).encode())

    def reply(self, status: int, body: bytes, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.seen.append((self.path, dict(self.headers), body))
        server.ports.add(self.client_address[1])
        with server.lock:
            server.in_flight += 1
            server.most_in_flight = max(server.most_in_flight, server.in_flight)
            mode = server.mode.pop(0) if isinstance(server.mode, list) else server.mode
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                if self.path in ("/api/show", "/api/generate", "/api/pull"):
                    self.manage(body)
                else:
                    self.answer(mode, body)
        finally:
            with server.lock:
                server.in_flight -= 1

    def manage(self, body: dict[str, Any]) -> None:
        """Ollama's calls that are no chat."""
        name = body.get("model", "")
        if self.path == "/api/pull":
            return self.pull(name)
        if name not in self.server.models:
            return self.reply(404, json.dumps({"error": f"model '{name}' not found"}).encode())
        if self.path == "/api/show":
            facts = {"general.architecture": "llama", "llama.context_length": self.server.context}
            return self.reply(200, json.dumps({"model_info": facts}).encode())
        keep = body.get("keep_alive")
        self.server.loaded = [m for m in self.server.loaded if m["name"] != name] + ([{"name": name}] if keep else [])
        return self.reply(200, b'{"response": "", "done": true}')

    def pull(self, name: str) -> None:
        lines = [{"status": "pulling manifest"}]
        if "missing" in name:
            lines.append({"error": f"pull model manifest: file does not exist {CANARY}"})
        else:
            lines += [{"status": "pulling ab12", "total": 100, "completed": n} for n in (10, 100)]
            lines.append({"status": "success"})
            self.server.models.append(name)
        self.chunked((json.dumps(line).encode() + b"\n" for line in lines), "application/x-ndjson")

    def chunked(self, pieces: Iterator[bytes], kind: str, *, end: bool = True, pause: float = 0.0) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in pieces:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            if pause:
                time.sleep(pause)
        if end:
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.close_connection = True

    def answer(self, mode: str, body: dict[str, Any]) -> None:
        """Answers a chat in the way that `mode` says."""
        if self.server.refused in body:
            self.reply(400, json.dumps({"error": {"message": f"no {self.server.refused}"}}).encode())
        elif self.server.whole:
            self.reply(200, json.dumps(WHOLE[self.server.protocol]).encode())
        else:
            self.answer_in_pieces(mode, body)

    def answer_in_pieces(self, mode: str, body: dict[str, Any]) -> None:
        """Well, or in the way that `mode` says."""
        pieces, kind, error = PROTOCOLS[self.server.protocol]
        good = list(pieces(self.server.text(body) if callable(self.server.text) else self.server.text))
        texts = {"not_json": "The feature is nice", "wrong_schema": '{"explanation": 3}'}
        if mode in ("429", "500", "401", "404"):
            after = {"Retry_After": self.server.retry_after} if mode == "429" else {}
            what = b"model not found" if mode == "404" else b"no"
            self.reply(int(mode), b'{"error": {"message": "%s sk-canary-5f1c"}}' % what, **after)
        elif mode == "redirect":
            self.reply(302, b"", Location="http://169.254.169.254/latest/meta-data")
        elif mode in ("html", "garbage", "gzip"):
            page = b"<html>sk-canary-5f1c</html>" if mode != "garbage" else b"data: {]]\n\n{]]\n"
            packed = gzip.compress(b"data: x\n" * 200_000) if mode == "gzip" else page
            encoding = {"Content_Encoding": "gzip"} if mode == "gzip" else {}
            self.reply(200, packed, "text/html" if mode == "html" else kind, **encoding)
        elif mode in ("slow", "silent", "reset"):
            self.keep_still(mode, kind)
        elif mode in ("endless", "drip", "huge"):
            self.overdo(mode, good[1 if self.server.protocol != "anthropic" else 3], kind)
        elif mode in ("cut", "cut_clean", "error_inside"):
            part = good[: len(good) // 2] + ([error] if mode == "error_inside" else [])
            self.chunked(iter(part), kind, end=mode != "cut")
        elif mode == "length":
            self.chunked(pieces(GOOD, "length"), kind)
        else:
            self.chunked(pieces(texts[mode]) if mode in texts else iter(good), kind, pause=self.server.pause)

    def keep_still(self, mode: str, kind: str) -> None:
        if mode == "silent":
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.flush()
        if mode != "reset":
            self.server.ended.wait()
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def overdo(self, mode: str, piece: bytes, kind: str) -> None:
        if mode == "huge":
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.end_headers()
            for _ in range(2000):
                self.wfile.write(b"x" * 1000)
            self.close_connection = True
        else:
            many = (piece for _ in iter(self.server.ended.is_set, True))
            self.chunked(many, kind, pause=0.05 if mode == "drip" else 0.0)


class ChatServer(ThreadingHTTPServer):
    """On a free port of this machine."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, protocol: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.protocol = protocol
        self.mode: str | list[str] = "good"
        self.text: str | Callable[[dict[str, Any]], str] = GOOD
        self.seen: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.models = ["m:latest"] if protocol == "ollama" else ["m"]
        self.loaded: list[dict[str, Any]] = []
        self.context = 0
        self.retry_after = "0.05"
        self.pause = 0.0
        self.whole = False
        self.refused = ""
        self.ports: set[int] = set()
        self.lock = threading.Lock()
        self.ended = threading.Event()
        self.in_flight = self.most_in_flight = 0

    @property
    def url(self) -> str:
        """Its address, with the path that the protocol's clients begin at."""
        base = f"http://127.0.0.1:{self.server_address[1]}"
        return base + "/v1" if self.protocol == "openai" else base

    @property
    def chats(self) -> list[dict[str, Any]]:
        """Bodies of the chat requests so far."""
        paths = ("/v1/chat/completions", "/v1/messages", "/api/chat")
        return [body for path, _, body in self.seen if path in paths]

    def handle_error(self, *_: object) -> None:
        """Says nothing."""


@contextlib.contextmanager
def running(protocol: str) -> Iterator[ChatServer]:
    """A server while the block lasts."""
    server = ChatServer(protocol)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
