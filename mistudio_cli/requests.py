"""Request messages from command-line values: what was not given is left unset, so that defaults stay the service's.

The contract's own rules are checked by the service, not here.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from mistudio_core.errors import InvalidInput

if TYPE_CHECKING:
    from google.protobuf.message import Message

M = TypeVar("M", bound="Message")


def fill(message: M, values: Mapping[str, Any]) -> M:
    """Sets the fields that `values` names; None and names that are no fields are passed over.

    Enums are given by short names. Raises InvalidInput for a value that the field cannot hold.
    """
    for name, field in message.DESCRIPTOR.fields_by_name.items():
        value = values.get(name)
        if value is None:
            continue
        try:
            if field.is_repeated:
                getattr(message, name).extend(value)
            elif field.message_type is not None:
                getattr(message, name).MergeFrom(_settings(name, getattr(message, name).__class__(), value))
            else:
                setattr(message, name, value if field.enum_type is None else _enum(name, field.enum_type, value))
        except (TypeError, ValueError) as error:
            raise InvalidInput.field(name, value, str(error)) from error
    return message


def new_request_id() -> str:
    """An id that makes a start idempotent: a repeated call cannot start a second job."""
    return f"cli-{secrets.token_hex(8)}"


def _settings(option: str, message: M, settings: Iterable[str]) -> M:
    """A message from `name=value` texts; a repeated field takes several, with commas. Raises InvalidInput."""
    fields = message.DESCRIPTOR.fields_by_name
    given: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if name not in fields or not equals:
            raise InvalidInput.field(option, setting, f"NAME=VALUE, with a name of {', '.join(fields)}")
        field = fields[name]
        whole = field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_INT64)
        values = [int(part) if whole else part for part in (text.split(",") if field.is_repeated else [text])]
        given[name] = [*given.get(name, []), *values] if field.is_repeated else values[0]
    return fill(message, given)


def _enum(name: str, enum: Any, value: str) -> int:
    from mistudio_rpc.contract import short_name

    numbers = {short_name(v): v.number for v in enum.values if v.number != 0}
    if value.lower() not in numbers:
        raise InvalidInput.field(name, value, ", ".join(numbers))
    return int(numbers[value.lower()])
