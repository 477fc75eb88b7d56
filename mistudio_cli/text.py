"""Texts and names from elsewhere, as a terminal may show them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from google.protobuf.message import Message


def short(message: Message, name: str) -> str:
    """The short name of an enum field's value; empty for unset."""
    from mistudio_rpc.contract import short_name

    enum: Any = message.DESCRIPTOR.fields_by_name[name].enum_type
    value = enum.values_by_number[getattr(message, name)] if enum else None
    return short_name(value) if value is not None and value.number else ""


def plain(text: str) -> str:
    """Text from elsewhere without control and direction characters, so that it cannot steer a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def cut(text: str, length: int = 60) -> str:
    """At most so many characters."""
    return text if len(text) <= length else text[: length - 1] + "…"
