"""One engine process: its arguments, its start, its answers to questions, its end.

Owns what is done to a single operating-system process. The key travels in a file that only the
owner can read, never in arguments or environment. The pool decides when; nothing here restarts.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import signal
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mistudio_core.home import Home
from mistudio_core.processes import ProcessName
from mistudio_core.secret import Secret, read_sealed, write_sealed
from mistudio_explain.engines.vllm_models import GB, context_of, has_chat_template
from mistudio_explain.engines.vllm_settings import VllmSettings, cores_of

MODULE = "vllm.entrypoints.openai.api_server"
_TEMPLATE = Path(__file__).parent / "chat_templates" / "plain.jinja"
_LAST_LINES = 12
_LAST_BYTES = 3000
_FIRST_LEASE_FD = 10
_METRIC = re.compile(r"^vllm:(num_requests_running|num_requests_waiting|request_success_total)\{[^}]*\} ([0-9.e+-]+)$")
_CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How one process is started."""

    settings: VllmSettings
    """The engine's settings."""
    device: str
    """Where it runs."""
    python: Path
    """Interpreter of an environment that has vLLM."""
    model: str
    """Name that requests use."""
    folder: Path | None
    """Where the model lies; None where the engine fetches it by its name."""
    log: Path
    """File that takes its output."""
    key_file: Path
    """File that takes its configuration with the key; mode 0600."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What a process says it is doing."""

    in_flight: int
    """Requests running and waiting."""
    answered: int
    """Requests answered since its start."""


def free_port() -> int:
    """A port on 127.0.0.1 that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_key(plan: Plan, key: Secret) -> None:
    """Puts the key where the process reads it: a configuration file of vLLM, which is YAML and so may be JSON."""
    write_sealed(plan.key_file, Secret(json.dumps({"api-key": key.reveal()})))


def read_key(home: Home, name: str) -> Secret:
    """The key of a process from its file in the home's secrets; empty where it is gone."""
    sealed = read_sealed(home.secrets / name) if name else None
    try:
        return Secret(str(json.loads(sealed.reveal())["api-key"])) if sealed else Secret("")
    except (ValueError, KeyError, TypeError):
        return Secret("")


def arguments(plan: Plan, port: int) -> list[str]:
    """The command line; without secrets."""
    s = plan.settings
    made = [str(plan.python), "-m", MODULE, "--config", str(plan.key_file), "--host", "127.0.0.1", "--port", str(port)]
    made += ["--model", str(plan.folder or plan.model), "--served-model-name", plan.model]
    made += ["--max-num-seqs", str(s.max_num_seqs), "--enable-prefix-caching"]
    made += ["--structured-outputs-config", '{"backend":"xgrammar","disable_any_whitespace":true}']
    length = context_of(plan.folder, s)
    if length:
        made += ["--max-model-len", str(length)]
    if s.eager:
        made.append("--enforce-eager")
    if plan.device.startswith("cpu"):
        made += ["--kv-cache-memory-bytes", str(int(s.kv_cache_gb * GB)), "--distributed-executor-backend", "uni"]
    else:
        made += ["--gpu-memory-utilization", str(s.memory_fraction)]
    if s.chat_template:
        made += ["--chat-template", s.chat_template]
    elif plan.folder is not None and not has_chat_template(plan.folder):
        made += ["--chat-template", str(_TEMPLATE)]
    return [*made, *s.flags]


def environment(plan: Plan, base: Mapping[str, str], gpu: str) -> dict[str, str]:
    """The process's environment: its own device, no reports to anyone, no hub unless allowed, no secret.

    `gpu`: what CUDA_VISIBLE_DEVICES is to say (the card's id); empty on cores.
    """
    kept = {k: v for k, v in base.items() if not _is_secret(k)}
    made = {**kept, "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    made.pop("PYTHONDONTWRITEBYTECODE", None)  # without compiled bytecode it starts several times slower
    made.pop("PYTHONPATH", None)
    made["CUDA_VISIBLE_DEVICES"] = gpu
    if not plan.settings.download:
        made["HF_HUB_OFFLINE"] = "1"
    if plan.settings.eager:
        made["TORCH_COMPILE_DISABLE"] = "1"
    cores = cores_of(plan.device)
    if cores:
        made["OMP_NUM_THREADS"] = str(len(cores))
        made["VLLM_CPU_OMP_THREADS_BIND"] = f"{cores[0]}-{cores[-1]}"
    return made


def _is_secret(name: str) -> bool:
    return any(word in name.upper() for word in ("TOKEN", "SECRET", "API_KEY", "PASSWORD"))


def spawn(plan: Plan, port: int, *, gpu: str, leases: Sequence[int]) -> ProcessName:
    """Starts it in a session of its own, on its cores, holding the leases. Raises OSError.

    It lives on when this process is killed; a later one finds it by the returned name.
    """
    plan.log.parent.mkdir(parents=True, exist_ok=True)
    command = arguments(plan, port)
    files: list[Any] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(plan.log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    top = max([_FIRST_LEASE_FD, *leases]) + 1
    files += [(os.POSIX_SPAWN_DUP2, fd, top + place) for place, fd in enumerate(leases)]
    pid = os.posix_spawn(command[0], command, environment(plan, os.environ, gpu), setsid=True, file_actions=files)
    cores = cores_of(plan.device)
    if cores:
        with contextlib.suppress(OSError):  # it has ended already, or the machine has no such core: its log says so
            os.sched_setaffinity(pid, cores)
    return ProcessName.of(pid)


async def ended(process: ProcessName) -> int | None:
    """Waits for its end: exit code, negative for a signal; None where it was no child of this process."""
    loop = asyncio.get_running_loop()
    try:
        fd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return _reap(process.pid)
    over = asyncio.Event()
    try:
        loop.add_reader(fd, over.set)
        if process.alive:
            await over.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)
    return _reap(process.pid)


def _reap(pid: int) -> int | None:
    try:
        done, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status) if done else None


async def end(process: ProcessName, *, seconds: float) -> None:
    """SIGTERM, and SIGKILL to all of its session after `seconds`; returns when it is gone."""
    process.signal(signal.SIGTERM)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await ended(process)
    await asyncio.to_thread(process.kill_session)
    await ended(process)


async def ask(
    port: int, path: str, *, key: Secret, seconds: float, body: Mapping[str, object] | None = None
) -> tuple[int, bytes]:
    """(HTTP status, body) of a question to the process; status 0 where it does not answer in time."""
    return await asyncio.to_thread(_ask, port, path, key, seconds, body)


def _ask(port: int, path: str, key: Secret, seconds: float, body: Mapping[str, object] | None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    headers = {"Authorization": f"Bearer {key.reveal()}", "Content-Type": "application/json"}
    try:
        data = None if body is None else json.dumps(body).encode()
        connection.request("GET" if body is None else "POST", path, body=data, headers=headers)
        response = connection.getresponse()
        return response.status, response.read(4_000_000)
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


async def serves(port: int, model: str, *, key: Secret, seconds: float) -> bool:
    """Whether it is healthy, takes this key and has this model."""
    status, _ = await ask(port, "/health", key=key, seconds=seconds)
    if status != 200:
        return False
    status, body = await ask(port, "/v1/models", key=key, seconds=seconds)
    try:
        return status == 200 and model in [entry["id"] for entry in json.loads(body)["data"]]
    except (ValueError, KeyError, TypeError):
        return False


async def load_of(port: int, *, key: Secret, seconds: float) -> Load | None:
    """What it works on, from its metrics; None where it does not answer."""
    status, body = await ask(port, "/metrics", key=key, seconds=seconds)
    if status != 200:
        return None
    sums = {"num_requests_running": 0.0, "num_requests_waiting": 0.0, "request_success_total": 0.0}
    for line in body.decode(errors="replace").splitlines():
        found = _METRIC.match(line)
        if found:
            sums[found.group(1)] += float(found.group(2))
    running = sums["num_requests_running"] + sums["num_requests_waiting"]
    return Load(in_flight=int(running), answered=int(sums["request_success_total"]))


def last_lines(log: Path, start: int = 0) -> str:
    """The end of what a process logged since byte `start`, without control characters."""
    try:
        with log.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(start, size - 4 * _LAST_BYTES))
            text = stream.read().decode(errors="replace")
    except OSError:
        return ""
    lines = [line.rstrip() for line in _CONTROL.sub("", text.replace("\r", "\n")).split("\n") if line.strip()]
    return "\n".join(lines[-_LAST_LINES:])[-_LAST_BYTES:]
