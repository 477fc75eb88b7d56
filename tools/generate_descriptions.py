"""Writes the comments of the contract to gateway/descriptions.json, for OpenAPI.

`python tools/generate_descriptions.py [TARGET]`; a contract test calls `descriptions()` and compares
with what is committed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"

# field numbers in descriptor.proto: the path of a comment is made of them
_CHILDREN = {
    "file": {4: ("message_type", "message"), 5: ("enum_type", "enum"), 6: ("service", "service")},
    "message": {
        2: ("field", "leaf"),
        3: ("nested_type", "message"),
        4: ("enum_type", "enum"),
        8: ("oneof_decl", "leaf"),
    },
    "enum": {2: ("value", "leaf")},
    "service": {2: ("method", "leaf")},
    "leaf": {},
}


def descriptions() -> dict[str, str]:
    """Full name -> comment, for everything in protos/mistudio that has one."""
    files = descriptor_pb2.FileDescriptorSet.FromString(_compiled())
    return dict(sorted(pair for file in files.file for pair in _comments(file)))


def _compiled() -> bytes:
    sources = sorted(str(p.relative_to(PROTOS)) for p in (PROTOS / "mistudio").rglob("*.proto"))
    include = Path(protoc.__file__).parent / "_proto"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set.pb"
        code = protoc.main(
            [
                "protoc",
                f"-I{PROTOS}",
                f"-I{PROTOS / 'third_party'}",
                f"-I{include}",
                f"--descriptor_set_out={out}",
                "--include_source_info",
                *sources,
            ]
        )
        if code != 0:
            raise SystemExit(f"protoc failed with exit code {code}")
        return out.read_bytes()


def _comments(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[str, str]]:
    for location in file.source_code_info.location:
        text = " ".join(location.leading_comments.split())
        name = _name(file, list(location.path)) if text else None
        if name:
            yield name, text


def _name(file: descriptor_pb2.FileDescriptorProto, path: list[int]) -> str | None:
    """The full name of what a comment's path leads to; None where it is nothing that has a name."""
    node: Any = file
    kind, names = "file", [file.package]
    while path:
        child = _CHILDREN[kind].get(path[0])
        if child is None or len(path) < 2:
            return None
        node, kind = getattr(node, child[0])[path[1]], child[1]
        names.append(node.name)
        path = path[2:]
    return ".".join(names) if len(names) > 1 else None


def main(target: Path) -> None:
    """Writes the file."""
    target.write_text(json.dumps(descriptions(), indent=0, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "gateway" / "descriptions.json")
