"""Rendered pods as real processes on loopback: what a kubelet would do with them, without one.

Every volume is a folder, every address a free port of 127.0.0.1; arguments, environment and configuration are
the rendered ones with just these replaced. The end of a container ends everything that runs in it.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from mistudio_rpc.probe import serves
from tests.chart.charts import RELEASE, ROOT, Values, main_container, objects, of_kind, pods

_LISTENER = re.compile(r"^0\.0\.0\.0:(\d+)$")
_HOST = re.compile(rf"({RELEASE}-[a-z]+):(\d+)")


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


@dataclass
class Container:
    """The one container of a rendered pod."""

    name: str
    pod: Values
    folders: Mapping[str, Path]
    """Mount path -> folder."""
    ports: Mapping[int, int]
    """Container port -> port of this machine."""
    services: Mapping[str, Container] = field(default_factory=dict)
    """Host name -> the container behind it."""
    extra: Mapping[str, str] = field(default_factory=dict)
    """Environment over the rendered one."""
    log: Path = Path(os.devnull)
    process: subprocess.Popen[bytes] | None = None

    @property
    def spec(self) -> Values:
        return main_container(self.pod)

    @property
    def grace(self) -> float:
        """Seconds that it has to stop in."""
        return float(self.pod["spec"]["terminationGracePeriodSeconds"])

    def placed(self, text: str) -> str:
        """A rendered argument or value, for this machine."""
        for mount in sorted(self.folders, key=len, reverse=True):
            if text == mount or text.startswith(f"{mount}/"):
                return str(self.folders[mount]) + text.removeprefix(mount)
        listener = _LISTENER.match(text)
        if listener:
            return f"127.0.0.1:{self.ports[int(listener[1])]}"
        return _HOST.sub(lambda m: f"127.0.0.1:{self.services[m[1]].ports[int(m[2])]}", text)

    @property
    def environment(self) -> dict[str, str]:
        """What the image gives, then what is rendered: nothing else of this machine's."""
        tree = os.pathsep.join([str(ROOT), str(ROOT / "gen")])
        path = os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin", "/bin"])
        image = {"PATH": path, "PYTHONPATH": tree, "OMP_NUM_THREADS": "1"}
        return {**image, **{e["name"]: self.placed(str(e["value"])) for e in self.spec["env"]}, **self.extra}

    def start(self) -> None:
        """Starts its process; returns once the rendered startup probe succeeds."""
        arguments = [self.placed(str(argument)) for argument in self.spec["args"]]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                arguments, env=self.environment, cwd=self.folders["/tmp"], stdout=log, stderr=log, process_group=0
            )
        probe = self.spec["startupProbe"]
        ends = time.monotonic() + probe["periodSeconds"] * probe["failureThreshold"]
        while not self.answers("startupProbe"):
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < ends, self.log.read_text()[-3000:]
            time.sleep(0.05)

    def answers(self, probe: str) -> bool:
        """Whether a rendered probe succeeds now."""
        asked = self.spec[probe]["grpc"]
        return serves(f"127.0.0.1:{self.ports[asked['port']]}", asked.get("service", ""))

    def stop(self) -> int:
        """SIGTERM, and the exit code of its process within the grace; then the container's other processes end."""
        assert self.process is not None
        own = psutil.Process(self.process.pid)
        inside = {child.pid: child for child in own.children(recursive=True)}
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(self.grace)
        finally:
            _kill([own, *inside.values()])
        self.process = None
        return code

    def end(self) -> None:
        """Ends it, however it is."""
        if self.process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                own = psutil.Process(self.process.pid)
                _kill([*own.children(recursive=True), own])
            self.process.wait()


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)


def containers(values: Values, folder: Path, secrets: Mapping[str, Mapping[str, bytes]]) -> dict[str, Container]:
    """The container of every rendered workload, by component; `secrets` has the content of what they name."""
    found = objects(values)
    config_maps = {o["metadata"]["name"]: o["data"] for o in of_kind(found, "ConfigMap").values()}
    made = {}
    for name, pod in pods(found).items():
        volumes = {}
        for volume in pod["spec"]["volumes"]:
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            place = folder / "claims" / claim if claim else folder / name / volume["name"]
            place.mkdir(parents=True, exist_ok=True)
            content = secrets.get(volume.get("secret", {}).get("secretName", ""), {})
            texts = config_maps.get(volume.get("configMap", {}).get("name", ""), {})
            for file, data in {**content, **{k: v.encode() for k, v in texts.items()}}.items():
                (place / file).write_bytes(data)
            volumes[volume["name"]] = place
        spec = main_container(pod)
        made[name] = Container(
            name=name,
            pod=pod,
            folders={m["mountPath"]: volumes[m["name"]] for m in spec["volumeMounts"]},
            ports={p["containerPort"]: free_port() for p in spec["ports"]},
            log=folder / f"{name}.log",
        )
    for container in made.values():
        container.services = _behind(found, made)
    return made


def _behind(found: list[Values], made: Mapping[str, Container]) -> dict[str, Container]:
    """Host name -> container, as the rendered services select them."""
    behind = {}
    for service in of_kind(found, "Service").values():
        wanted = service["spec"]["selector"].items()
        (selected,) = [c for c in made.values() if wanted <= c.pod["metadata"]["labels"].items()]
        behind[service["metadata"]["name"]] = selected
    return behind


@contextlib.contextmanager
def running(made: Mapping[str, Container]) -> Iterator[Mapping[str, Container]]:
    """Starts them all at once, as a cluster would; ends them after the block."""
    try:
        for container in made.values():
            container.start()
        yield made
    finally:
        for container in made.values():
            container.end()
