"""Messages as JSON values, by their descriptors alone.

Proto field names, enums as short lower-case names, 64-bit integers as numbers, timestamps as RFC 3339.
Fields without presence are always there; unset optional fields and messages are left out.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Callable
from functools import cache
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from mistudio_rpc.contract import short_name

WELL_KNOWN = "google.protobuf."
_FLOAT32 = struct.Struct("<f")


def to_json(message: Message) -> dict[str, Any]:
    """The JSON object of a message."""
    out: dict[str, Any] = {}
    for name, has_presence, emit in _plan(message.DESCRIPTOR):
        if not has_presence or message.HasField(name):
            out[name] = emit(getattr(message, name))
    return out


def dumps(value: object) -> bytes:
    """Compact UTF-8 JSON."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


@cache
def _plan(descriptor: Descriptor) -> tuple[tuple[str, bool, Callable[[Any], Any]], ...]:
    return tuple((f.name, f.has_presence, _emitter(f)) for f in descriptor.fields)


def _emitter(field: FieldDescriptor) -> Callable[[Any], Any]:
    """How the value of a field turns into JSON."""
    if is_map(field):
        key, value = map_fields(field)
        key_text = _bool_key if key.type == FieldDescriptor.TYPE_BOOL else str
        emit_value = _one(value)
        return lambda mapping: {key_text(k): emit_value(mapping[k]) for k in sorted(mapping)}
    emit = _one(field)
    if field.is_repeated:
        return lambda values: [emit(v) for v in values]
    return emit


def _one(field: FieldDescriptor) -> Callable[[Any], Any]:
    """How one value of a field turns into JSON."""
    if field.message_type is not None:
        known = field.message_type.full_name.startswith(WELL_KNOWN)
        return json_format.MessageToDict if known else to_json
    if field.enum_type is not None:
        names = enum_names(field.enum_type)
        return lambda number: names.get(number, number)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return lambda data: base64.b64encode(data).decode()
    if field.type == FieldDescriptor.TYPE_FLOAT:
        return _shortest
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return lambda number: number if math.isfinite(number) else None
    return _same


def is_map(field: FieldDescriptor) -> bool:
    """Whether a field is a map."""
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def map_fields(field: FieldDescriptor) -> tuple[FieldDescriptor, FieldDescriptor]:
    """Key and value of a map field."""
    key, value = field.message_type.fields if field.message_type else ()
    return key, value


@cache
def fields_of(descriptor: Descriptor) -> dict[str, FieldDescriptor]:
    """The fields of a message by name."""
    return {f.name: f for f in descriptor.fields}


@cache
def enum_names(enum: EnumDescriptor) -> dict[int, str]:
    """Number -> short lower-case name."""
    return {v.number: short_name(v) for v in enum.values}


def _same(value: Any) -> Any:
    return value


def _bool_key(value: bool) -> str:
    return "true" if value else "false"


def _shortest(number: float) -> float | None:
    """The shortest decimal that is the same 32-bit float; None for NaN and infinity, which JSON has not."""
    if not math.isfinite(number):
        return None
    for digits in (6, 7, 8):
        short = float(f"{number:.{digits}g}")
        if abs(short) < 3.4e38 and _FLOAT32.unpack(_FLOAT32.pack(short))[0] == number:
            return short
    return float(f"{number:.9g}")
