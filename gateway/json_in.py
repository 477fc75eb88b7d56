"""JSON values and query texts into messages, strictly.

Every fault is InvalidInput that names the field by its path: UNKNOWN_FIELD with the nearest valid names,
INVALID_FIELD with what is allowed. JSON null means absent. Values of redacted fields are never shown.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import json
import math
from collections.abc import Iterable
from functools import cache
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from mistudio_core.errors import FieldProblem, InvalidInput
from mistudio_rpc.contract import reserved_value, short_name
from mistudio_rpc.json_out import WELL_KNOWN, fields_of, is_map, map_fields

F = FieldDescriptor
BITS = {
    F.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    F.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    F.CPPTYPE_UINT32: (0, 2**32 - 1),
    F.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_FLOAT32_MAX = 3.4028234663852886e38


def fill(message: Message, value: object, path: str = "", fixed: Iterable[str] = ()) -> None:
    """Sets the fields of a message from a JSON object. `fixed` fields are known already and may not be there."""
    if not isinstance(value, dict):
        raise InvalidInput.field(path or "body", _shown(value), "a JSON object")
    fields = fields_of(message.DESCRIPTOR)
    for name, item in value.items():
        where = f"{path}.{name}" if path else name
        if name in fixed:
            raise InvalidInput.field(where, _shown(item), "absent from the body: it stands in the path")
        if name not in fields:
            raise unknown_field(where, name, [f for f in fields if f not in fixed])
        if item is not None:
            _set(message, fields[name], item, where)


def unknown_field(where: str, name: str, valid: Iterable[str]) -> InvalidInput:
    """The error for a field or parameter that does not exist, with the nearest that do."""
    known = sorted(valid)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if near:
        hint = f"Did you mean {' or '.join(near)}?"
    else:
        hint = f"Valid fields: {', '.join(known)}." if known else "No fields are taken here."
    where = where if len(where) <= 200 else where[:197] + "..."
    problem = FieldProblem(field=where, value="", allowed=", ".join(near or known), remedy=hint)
    facts = {"field": where, "allowed": problem.allowed}
    return InvalidInput(f"Unknown field {where!r}. {hint}", reason="UNKNOWN_FIELD", facts=facts, problems=[problem])


def set_texts(message: Message, field: FieldDescriptor, texts: list[str]) -> None:
    """Sets a field from path or query texts."""
    if field.message_type is not None and not field.message_type.full_name.startswith(WELL_KNOWN):
        raise InvalidInput.field(field.name, "", "a field of the body: objects do not fit into a query")
    if field.is_repeated:
        _set(message, field, [_from_text(field, t) for t in texts], field.name)
    elif len(texts) > 1:
        raise _wrong(field, field.name, ", ".join(texts), "one value")
    else:
        _set(message, field, _from_text(field, texts[0]), field.name)


def _set(message: Message, field: FieldDescriptor, value: object, path: str) -> None:
    oneof = field.containing_oneof
    if oneof is not None and message.WhichOneof(oneof.name) not in {None, field.name}:
        raise _wrong(field, path, value, f"absent: only one of {', '.join(f.name for f in oneof.fields)} may be set")
    if is_map(field):
        _set_map(message, field, value, path)
    elif field.is_repeated:
        if not isinstance(value, list):
            raise _wrong(field, path, value, "a JSON array")
        target = getattr(message, field.name)
        for index, item in enumerate(value):
            _add(target, field, item, f"{path}[{index}]")
    elif field.message_type is not None:
        inner = getattr(message, field.name)
        inner.SetInParent()
        _fill_message(inner, field, value, path)
    else:
        setattr(message, field.name, _scalar(field, value, path))


def _add(target: Any, field: FieldDescriptor, item: object, path: str) -> None:
    if field.message_type is not None:
        _fill_message(target.add(), field, item, path)
    else:
        target.append(_scalar(field, item, path))


def _set_map(message: Message, field: FieldDescriptor, value: object, path: str) -> None:
    if not isinstance(value, dict):
        raise _wrong(field, path, value, "a JSON object")
    key_field, value_field = map_fields(field)
    target = getattr(message, field.name)
    for text, item in value.items():
        where = f"{path}.{text}"
        key = _scalar(key_field, _from_text(key_field, text), where)
        if value_field.message_type is not None:
            _fill_message(target[key], value_field, item, where)
        else:
            target[key] = _scalar(value_field, item, where)


def _fill_message(message: Message, field: FieldDescriptor, value: Any, path: str) -> None:
    if not message.DESCRIPTOR.full_name.startswith(WELL_KNOWN):
        fill(message, value, path)
        return
    try:
        json_format.ParseDict(value, message)
    except (json_format.ParseError, ValueError, TypeError, AttributeError) as error:
        kind = message.DESCRIPTOR.name
        allowed = 'a time such as "2026-01-31T12:00:00Z"' if kind == "Timestamp" else f"a {kind}"
        raise _wrong(field, path, value, allowed) from error


def _scalar(field: FieldDescriptor, value: object, path: str) -> Any:
    """One checked value, ready to be assigned."""
    if field.cpp_type in BITS:
        return _integer(field, value, path)
    if field.cpp_type in {F.CPPTYPE_DOUBLE, F.CPPTYPE_FLOAT}:
        return _number(field, value, path)
    if field.cpp_type == F.CPPTYPE_BOOL:
        if not isinstance(value, bool):
            raise _wrong(field, path, value, "true or false")
        return value
    if field.enum_type is not None:
        return _enum(field, value, path)
    return _bytes(field, value, path) if field.type == F.TYPE_BYTES else _string(field, value, path)


def _integer(field: FieldDescriptor, value: object, path: str) -> int:
    low, high = BITS[field.cpp_type]
    whole = int(value) if isinstance(value, float) and value.is_integer() else value
    if isinstance(whole, bool) or not isinstance(whole, int) or not low <= whole <= high:
        raise _wrong(field, path, value, f"an integer from {low} to {high}")
    return whole


def _number(field: FieldDescriptor, value: object, path: str) -> float:
    top = _FLOAT32_MAX if field.cpp_type == F.CPPTYPE_FLOAT else math.inf
    if not isinstance(value, bool) and isinstance(value, int | float):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number) and abs(number) <= top:
            return number
    raise _wrong(field, path, value, "a finite number")


def _string(field: FieldDescriptor, value: object, path: str) -> str:
    if not isinstance(value, str):
        raise _wrong(field, path, value, "a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput.field(path, "", "a string of whole Unicode characters") from error
    return value


def _bytes(field: FieldDescriptor, value: object, path: str) -> bytes:
    try:
        return base64.b64decode(str(value), validate=True)
    except (binascii.Error, ValueError) as error:
        raise _wrong(field, path, value, "base64") from error


@cache
def enum_numbers(enum: EnumDescriptor) -> dict[str, int]:
    """Short lower-case and full names -> number."""
    return {name: v.number for v in enum.values for name in (short_name(v), v.name)}


def _enum(field: FieldDescriptor, value: object, path: str) -> int:
    enum: EnumDescriptor = field.enum_type  # type: ignore[assignment]
    number = enum_numbers(enum).get(value) if isinstance(value, str) else None
    if number is None:
        names = [short_name(v) for v in enum.values if v.number and reserved_value(v) is None]
        raise _wrong(field, path, value, f"one of {', '.join(names)}")
    return number


def _from_text(field: FieldDescriptor, text: str) -> object:
    """The JSON value that a text stands for; the text itself where it stands for none, to be refused as such."""
    try:
        if field.cpp_type in BITS:
            return int(text) if text.isascii() and text.lstrip("-").isdigit() else text
        if field.cpp_type in {F.CPPTYPE_DOUBLE, F.CPPTYPE_FLOAT}:
            return float(text) if text.isascii() and "_" not in text and text == text.strip() else text
    except ValueError:
        return text
    if field.cpp_type == F.CPPTYPE_BOOL:
        return {"true": True, "false": False}.get(text, text)
    return text


def _wrong(field: FieldDescriptor, path: str, value: object, allowed: str) -> InvalidInput:
    redacted = field.GetOptions().debug_redact
    return InvalidInput.field(path, "***" if redacted else _shown(value), allowed)


class _Word:
    """A value that is shown as this word, without quotes."""

    def __init__(self, word: str) -> None:
        self._word = word

    def __str__(self) -> str:
        return self._word


def _shown(value: object) -> object:
    """A value as a person should see it: as it stands in JSON, and never long."""
    if isinstance(value, str):
        return value[:200].encode("utf-8", "replace").decode()
    if isinstance(value, dict | list):
        return _Word("an object" if isinstance(value, dict) else "an array")
    if isinstance(value, int) and abs(value) > 10**100:
        return _Word("a huge number")
    return _Word(json.dumps(value))
