"""XML 1.0: every field of every feature, without DTD, entities of its own or namespaces.

Numbers, names and flags are attributes, texts are elements, lists of numbers are one text with spaces.
Control characters that XML cannot hold are shown by their pictures (safety.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from mistudio_find.exports.safety import xml_escape
from mistudio_find.exports.schema import FEATURE, Field

# A private-use character that escaping leaves alone; texts that hold it take the longer way.
_BETWEEN = "\ue000"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _strings(name: str, values: Sequence[str]) -> str:
    """`<name><v>..</v><v>..</v></name>`, escaped in one go where the texts allow it."""
    if not values:
        return f"<{name}/>"
    joined = _BETWEEN.join(values)
    if joined.count(_BETWEEN) == len(values) - 1:
        return f"<{name}><v>{xml_escape(joined).replace(_BETWEEN, '</v><v>')}</v></{name}>"
    inside = "".join(f"<v>{xml_escape(value)}</v>" for value in values)
    return f"<{name}>{inside}</{name}>"


@lru_cache
def _split(fields: tuple[Field, ...]) -> tuple[tuple[str, ...], tuple[Field, ...]]:
    """(names of the attributes, the fields that are elements)."""
    inside = [f for f in fields if f.kind in ("message", "string") or f.repeated]
    return tuple(f.name for f in fields if f not in inside), tuple(inside)


def element(name: str, fields: tuple[Field, ...], record: Mapping[str, Any]) -> str:
    """A message as an element."""
    attributes, inside = _split(fields)
    parts = [f"<{name}"]
    parts += [f' {key}="{_value(record[key])}"' for key in attributes if record[key] is not None]
    parts.append(">")
    for field in inside:
        value, key = record[field.name], field.name
        if field.kind == "message":
            items = [element("item", field.fields, item) for item in value] if field.repeated else None
            parts.append(element(key, field.fields, value) if items is None else f"<{key}>{''.join(items)}</{key}>")
        elif field.is_number:
            parts.append(f"<{key}>{' '.join(map(str, value))}</{key}>")
        elif field.repeated:
            parts.append(_strings(key, value))
        else:
            parts.append(f"<{key}>{xml_escape(value)}</{key}>")
    parts.append(f"</{name}>")
    return "".join(parts)


def _metadata(name: str, value: Any) -> str:
    """Whatever the job says: objects as elements, a key that is no XML name as an attribute."""
    if isinstance(value, Mapping):
        return f"<{name}>{''.join(_metadata_entry(k, v) for k, v in value.items())}</{name}>"
    if isinstance(value, list | tuple):
        return f"<{name}>{''.join(_metadata('item', v) for v in value)}</{name}>"
    return f"<{name}>{xml_escape(_value(value))}</{name}>"


def _metadata_entry(key: str, value: Any) -> str:
    if key.isascii() and key.isidentifier() and not key.lower().startswith("xml"):
        return _metadata(key, value)
    quoted = xml_escape(key).replace('"', "&quot;").replace("\n", "&#10;").replace("\t", "&#9;")
    return f'<entry key="{quoted}">{_metadata("value", value)}</entry>'


class Text:
    """The file as text."""

    def head(self, metadata: Mapping[str, Any]) -> str:
        """Declaration, root and the job."""
        job = _metadata("job_metadata", metadata)
        return f'<?xml version="1.0" encoding="UTF-8"?>\n<feature_analysis>\n{job}\n<features>\n'

    def entry(self, record: Mapping[str, Any]) -> str:
        """One feature."""
        return element("feature", FEATURE, record) + "\n"

    def tail(self) -> str:
        """The ends of what `head` began."""
        return "</features>\n</feature_analysis>\n"
