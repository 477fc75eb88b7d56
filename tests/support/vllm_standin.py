"""A stand-in for vLLM's server in tests of what supervises it: the same arguments, routes and answers, no model.

It is run as `python -m vllm.entrypoints.openai.api_server ...` through the script that `standin_python` writes.
How it behaves stands in a file (JSON) beside that script, read at each start and each request.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ANSWER = json.dumps({"explanation": "Words about cats and dogs in short sentences.", "keywords": ["cat", "dog"]})


def standin_python(folder: Path, **behaviour: object) -> Path:
    """An executable that takes the place of an environment's python; `behaviour` as in BEHAVIOUR."""
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "python"
    script.write_text(f'#!/bin/sh\nshift 2\nexec "{sys.executable}" -I -S "{__file__}" "{folder}" "$@"\n')
    script.chmod(0o755)
    behave(folder, **behaviour)
    return script


def behave(folder: Path, **behaviour: object) -> None:
    """Changes how every stand-in of this folder behaves from now on."""
    fresh = folder / "behaviour.tmp"
    fresh.write_text(json.dumps({**BEHAVIOUR, **behaviour}))
    fresh.replace(folder / "behaviour.json")


BEHAVIOUR: dict[str, object] = {
    "die_at_start": "",  # last words; empty to live
    "refuse_chat": False,  # HTTP 400 for every chat
    "answer_seconds": 0.0,  # time for an answer
    "child": False,  # start a child process that outlives it, as an engine core does
    "deaf": False,  # ignore SIGTERM
}


class Server(ThreadingHTTPServer):
    """Counts what it works on."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.key = json.loads(Path(options.config).read_text())["api-key"]
        self.lock = threading.Lock()
        self.running = self.answered = 0
        super().__init__(("127.0.0.1", options.port), Handler)

    def behaviour(self) -> dict[str, object]:
        return dict(json.loads((self.folder / "behaviour.json").read_text()))


class Handler(BaseHTTPRequestHandler):
    """The routes that miStudio uses."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None:
        return

    def answer(self, status: int, value: object, kind: str = "application/json") -> None:
        body = value.encode() if isinstance(value, str) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def allowed(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {self.server.key}":
            return True
        self.answer(401, {"error": "Unauthorized"})
        return False

    def do_GET(self) -> None:
        model = self.server.options.served_model_name
        if self.path == "/health":
            self.answer(200, "", "text/plain")
        elif self.path == "/v1/models":
            entry = {"id": model, "object": "model", "max_model_len": int(self.server.options.max_model_len or 4096)}
            if self.allowed():
                self.answer(200, {"object": "list", "data": [entry]})
        elif self.path == "/metrics":
            labels = f'{{engine="0",model_name="{model}"}}'
            done = f'{{engine="0",finished_reason="stop",model_name="{model}"}}'
            lines = [f"vllm:num_requests_running{labels} {float(self.server.running)}"]
            lines += [f"vllm:num_requests_waiting{labels} 0.0"]
            lines += [f"vllm:request_success_total{done} {float(self.server.answered)}"]
            self.answer(200, "\n".join(lines) + "\n", "text/plain")
        else:
            self.answer(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize":
            self.answer(200, {"count": len(body["prompt"].split()), "max_model_len": 4096, "tokens": []})
        elif self.allowed():
            self.chat(body)

    def chat(self, body: dict[str, object]) -> None:
        behaviour = self.server.behaviour()
        if behaviour["refuse_chat"]:
            self.answer(400, {"error": {"message": "no chat template", "code": 400}})
            return
        with self.server.lock:
            self.server.running += 1
        time.sleep(float(str(behaviour["answer_seconds"])))
        with self.server.lock:
            self.server.running -= 1
            self.server.answered += 1
        usage = {"prompt_tokens": 20, "completion_tokens": 12, "total_tokens": 32}
        if not body.get("stream"):
            message = {"role": "assistant", "content": ANSWER}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            self.answer(200, {"id": "1", "model": body["model"], "choices": [choice], "usage": usage})
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        half = len(ANSWER) // 2
        for text, finish in ((ANSWER[:half], None), (ANSWER[half:], "stop")):
            self.event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]})
        self.event({"choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def event(self, value: object) -> None:
        self.wfile.write(b"data: " + json.dumps(value).encode() + b"\n\n")


def main() -> None:
    import signal

    folder = Path(sys.argv[1])
    parser = argparse.ArgumentParser()
    for name in ("--config", "--host", "--model", "--served-model-name", "--max-model-len"):
        parser.add_argument(name)
    parser.add_argument("--port", type=int)
    options, rest = parser.parse_known_args(sys.argv[2:])
    behaviour = json.loads((folder / "behaviour.json").read_text())
    cores = sorted(os.sched_getaffinity(0))
    note = {"pid": os.getpid(), "argv": sys.argv, "rest": rest, "cores": cores, "environ": dict(os.environ)}
    with (folder / "starts.jsonl").open("a") as notes:
        notes.write(json.dumps(note) + "\n")
    sys.stderr.write(f"stand-in starts with {options.model}\n")
    if behaviour["die_at_start"]:
        sys.stderr.write(f"{behaviour['die_at_start']}\n")
        sys.exit(3)
    if behaviour["child"]:
        subprocess.Popen(["sleep", "600"])
    if behaviour["deaf"]:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Server(options, folder).serve_forever(poll_interval=0.05)


if __name__ == "__main__":
    main()
