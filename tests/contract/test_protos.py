"""The contract itself: lint, format, no breaking change, stubs that match, a rule on every field."""

from __future__ import annotations

import filecmp
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

ROOT = Path(__file__).resolve().parents[2]
PROTOS = ROOT / "protos"
BUF = shutil.which("buf", path=str(Path(sys.executable).parent))


def buf(*arguments: str) -> subprocess.CompletedProcess[str]:
    assert BUF is not None, "buf is part of the dev extra"
    return subprocess.run([BUF, *arguments], cwd=PROTOS, capture_output=True, text=True, timeout=60)


def test_buf_finds_nothing_to_lint():
    done = buf("lint")
    assert done.returncode == 0, done.stdout


def test_buf_has_nothing_to_format():
    done = buf("format", "--diff", "--exit-code", "--path", "mistudio")
    assert done.returncode == 0, done.stdout


def test_nothing_breaks_against_the_last_release(tmp_path: Path):
    image = tmp_path / "new.binpb"
    assert buf("build", "-o", str(image)).returncode == 0
    done = buf("breaking", str(image), "--against", str(PROTOS / "released.binpb"), "--exclude-imports")
    assert done.returncode == 0, done.stdout


def test_a_breaking_change_would_be_found(tmp_path: Path):
    copy = tmp_path / "protos"
    shutil.copytree(PROTOS, copy)
    changed = copy / "mistudio" / "job" / "v1" / "job.proto"
    changed.write_text(
        changed.read_text()
        .replace("string job_id = 1", "int64 job_id = 1", 1)
        .replace("[(buf.validate.field).string.max_len = 100];", ";", 1)
    )
    image = tmp_path / "new.binpb"
    built = subprocess.run([str(BUF), "build", "-o", str(image)], cwd=copy, capture_output=True, text=True, timeout=60)
    assert built.returncode == 0, built.stderr
    done = buf("breaking", str(image), "--against", str(PROTOS / "released.binpb"), "--exclude-imports")
    assert done.returncode != 0
    assert "job.proto" in done.stdout


def test_committed_stubs_are_what_the_protos_generate(tmp_path: Path):
    generator = ROOT / "tools" / "generate_stubs.py"
    subprocess.run([sys.executable, str(generator), str(tmp_path)], check=True, capture_output=True, timeout=120)
    made = {p.relative_to(tmp_path) for p in tmp_path.rglob("*.py*") if "__pycache__" not in p.parts}
    kept = {p.relative_to(ROOT / "gen") for p in (ROOT / "gen").rglob("*.py*") if "__pycache__" not in p.parts}
    assert made == kept, "run `make protos` and commit gen/"
    different = [str(p) for p in made if not filecmp.cmp(tmp_path / p, ROOT / "gen" / p, shallow=False)]
    assert different == [], "run `make protos` and commit gen/"


def messages() -> list[Descriptor]:
    from mistudio_rpc.contract import installed

    seen: dict[str, Descriptor] = {}

    def visit(message: Descriptor) -> None:
        if message.full_name in seen or not message.full_name.startswith("mistudio."):
            return
        seen[message.full_name] = message
        for field in message.fields:
            if field.message_type is not None:
                visit(field.message_type)

    for method in installed():
        visit(method.descriptor.input_type)
        visit(method.descriptor.output_type)
    return [m for m in seen.values() if not m.GetOptions().map_entry]


def needs_rule(field: FieldDescriptor) -> bool:
    """Booleans and single messages have no size; everything else must be bounded."""
    if field.is_repeated:
        return True
    return field.type not in (FieldDescriptor.TYPE_BOOL, FieldDescriptor.TYPE_MESSAGE)


@pytest.mark.parametrize("message", messages(), ids=lambda m: m.full_name)
def test_every_field_has_a_limit(message: Descriptor):
    from buf.validate import validate_pb2

    free = [f.name for f in message.fields if needs_rule(f) and not f.GetOptions().HasExtension(validate_pb2.field)]
    assert free == []


def test_every_rpc_declares_who_may_call_it():
    from mistudio_rpc.contract import installed

    assert [m.path for m in installed() if m.policy is None] == []


def test_every_mutating_start_takes_a_request_id():
    from mistudio_rpc.contract import installed

    starting = [m for m in installed() if m.name.startswith("Start")]
    starts = [m for m in starting if "job_id" in m.descriptor.output_type.fields_by_name]
    assert len(starts) == 3  # the others start what is there once, an engine: idempotent by its name
    assert all("request_id" in m.descriptor.input_type.fields_by_name for m in starts)


def test_every_error_reason_in_the_code_is_in_the_catalogue():
    import re

    from mistudio.error.v1 import error_pb2

    known = {name.removeprefix("REASON_") for name in list(error_pb2.Reason.keys())}
    packages = [*ROOT.glob("mistudio_*"), ROOT / "gateway"]
    used = set()
    for path in (p for package in packages for p in package.rglob("*.py")):
        used |= set(re.findall(r'(?:default_)?reason\s*=\s*"([A-Z_]+)"', path.read_text()))
    assert used
    assert used - known == set()


def test_values_without_an_option_are_not_reserved():
    from mistudio_rpc.contract import reserved_value
    from tests.support.scratch import scratch_pb2

    names = scratch_pb2().DESCRIPTOR.enum_types_by_name["Pace"].values_by_name
    assert reserved_value(names["PACE_SLOW"]) is None
    assert reserved_value(names["PACE_FAST"]) == "Use slow."
