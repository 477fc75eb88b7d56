"""Generates the Python stubs of the contract into gen/ with grpcio-tools and mypy-protobuf.

`python tools/generate_stubs.py [TARGET]`; a contract test runs it into a temporary folder
and compares with what is committed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
THIRD_PARTY = PROTOS / "third_party"


def sources() -> list[str]:
    """Every .proto that gets stubs: ours, and buf.validate, which has no Python package of its own."""
    ours = sorted(str(p.relative_to(PROTOS)) for p in (PROTOS / "mistudio").rglob("*.proto"))
    return [*ours, "buf/validate/validate.proto"]


def generate(target: Path) -> None:
    """Writes *_pb2.py, *_pb2_grpc.py and typed .pyi files for every source under `target`."""
    target.mkdir(parents=True, exist_ok=True)
    include = Path(protoc.__file__).parent / "_proto"
    bin_dir = Path(sys.executable).parent
    arguments = [
        "protoc",
        f"-I{PROTOS}",
        f"-I{THIRD_PARTY}",
        f"-I{include}",
        f"--plugin=protoc-gen-mypy={bin_dir / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={bin_dir / 'protoc-gen-mypy_grpc'}",
        f"--python_out={target}",
        f"--mypy_out={target}",
        f"--grpc_python_out={target}",
        f"--mypy_grpc_out={target}",
        *sources(),
    ]
    code = protoc.main(arguments)
    if code != 0:
        raise SystemExit(f"protoc failed with exit code {code}")
    for empty in (*target.rglob("*_pb2_grpc.py"), *target.rglob("*_pb2_grpc.pyi")):
        service = "_service_pb2_grpc" in empty.name
        if not service:
            empty.unlink()
    for module in list(target.rglob("*.py")):
        for folder in module.relative_to(target).parents[:-1]:
            (target / folder / "__init__.py").touch()


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "gen")
