"""What starts quickly must not import what is heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers")


def imported(code: str, *watched: str) -> set[str]:
    """Which of the watched modules a fresh interpreter has imported after running `code`."""
    program = f"{code}\nimport sys\nprint('IMPORTED', *[m for m in {watched!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("IMPORTED")[2].split())


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["jobs", "--help"], ["--version"]])
def test_help_imports_neither_torch_nor_grpc(arguments):
    code = f"from mistudio_cli.__main__ import run_command\nassert run_command({arguments!r}) == 0"
    assert imported(code, *HEAVY, "grpc", "google.protobuf", "sqlalchemy") == set()


def test_the_supervisor_stays_small():
    assert imported("import mistudio_cli.supervisor, mistudio_cli.up", *HEAVY, "grpc", "sqlalchemy") == set()


def test_the_control_process_starts_without_torch():
    code = (
        "from mistudio_rpc.registry import find_services\n"
        "import mistudio_rpc.server\n"
        "assert [e.name for e in find_services(['train', 'find', 'explain'])] == ['train', 'find', 'explain']"
    )
    assert imported(code, *HEAVY) == set()


def test_the_gateway_starts_without_torch_and_services():
    assert imported("import gateway.__main__", *HEAVY, "mistudio_train", "sqlalchemy") == set()
