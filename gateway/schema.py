"""JSON schemas of messages, from descriptors, buf.validate rules and the sentences of the .proto files.

Requests and responses differ: in a request null means absent, unknown names are refused, and what this
release does not honour can only be left out; in a response everything without presence is there.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from gateway.descriptions import description
from gateway.json_in import BITS
from mistudio_rpc.contract import reserved_field, reserved_value, short_name
from mistudio_rpc.json_out import WELL_KNOWN, is_map, map_fields

F = FieldDescriptor
Schema = dict[str, Any]
_FORMATS = {F.CPPTYPE_INT32: "int32", F.CPPTYPE_INT64: "int64"}
_BOUNDS = {"gte": "minimum", "lte": "maximum", "gt": "exclusiveMinimum", "lt": "exclusiveMaximum"}
_WELL_KNOWN: dict[str, Schema] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?\d+(\.\d+)?s$"},
    "google.protobuf.Empty": {"type": "object"},
}


class Schemas:
    """The components of one document, collected while its paths are written."""

    def __init__(self) -> None:
        """Empty."""
        self.components: dict[str, Schema] = {}

    def reference(self, message: Descriptor, *, request: bool) -> Schema:
        """A reference to the schema of a message, which is added where it is new."""
        if message.full_name.startswith(WELL_KNOWN):
            return dict(_WELL_KNOWN.get(message.full_name, {}))
        name = message.full_name.removeprefix("mistudio.")
        name += ".Input" if request and not name.endswith("Request") else ""
        if name not in self.components:
            self.components[name] = {}  # taken: a message may hold itself
            self.components[name] = self.object(message, request=request)
        return {"$ref": f"#/components/schemas/{name}"}

    def object(self, message: Descriptor, *, request: bool, without: Collection[str] = ()) -> Schema:
        """The schema of a message, less the fields in `without`."""
        fields = [f for f in message.fields if f.name not in without]
        schema: Schema = {"type": "object", "properties": {f.name: self.field(f, request=request) for f in fields}}
        required = [f.name for f in fields if (is_required(f) if request else not f.has_presence)]
        if required:
            schema["required"] = required
        if request:
            schema["additionalProperties"] = False
        return _described(schema, message.full_name)

    def field(self, field: FieldDescriptor, *, request: bool) -> Schema:
        """The schema of a field with its rules."""
        rules = _rules(field)
        if request and (instead := reserved_field(field)):
            return {**_unset(field), "description": f"{description(field.full_name)} Not in this release. {instead}"}
        if is_map(field):
            _, value = map_fields(field)
            schema: Schema = {"type": "object", "additionalProperties": self._one(value, rules.map.values, request)}
            _copy(rules.map, schema, {"min_pairs": "minProperties", "max_pairs": "maxProperties"})
        elif field.is_repeated:
            schema = {"type": "array", "items": self._one(field, rules.repeated.items, request)}
            _copy(rules.repeated, schema, {"min_items": "minItems", "max_items": "maxItems", "unique": "uniqueItems"})
        else:
            schema = self._one(field, rules, request)
        if request and not is_required(field):
            schema = _nullable(schema)
        return _described(schema, field.full_name)

    def _one(self, field: FieldDescriptor, rules: validate_pb2.FieldRules, request: bool) -> Schema:
        if field.message_type is not None:
            return self.reference(field.message_type, request=request)
        if field.enum_type is not None:
            return _enum(field.enum_type, rules, request)
        if field.cpp_type == F.CPPTYPE_BOOL:
            return {"type": "boolean"}
        if field.cpp_type in {F.CPPTYPE_DOUBLE, F.CPPTYPE_FLOAT} or field.cpp_type in BITS:
            return _number(field, rules)
        if field.type == F.TYPE_BYTES:
            return {"type": "string", "contentEncoding": "base64"}
        schema: Schema = {"type": "string"}
        _copy(rules.string, schema, {"min_len": "minLength", "max_len": "maxLength", "pattern": "pattern"})
        return schema


def is_required(field: FieldDescriptor) -> bool:
    """Whether a request without this field breaks its rules."""
    rules = _rules(field)
    zero_refused = rules.string.min_len > 0 or rules.repeated.min_items > 0 or 0 in list(rules.enum.not_in)
    return bool(rules.required or (zero_refused and (field.is_repeated or not field.has_presence)))


def _rules(field: FieldDescriptor) -> validate_pb2.FieldRules:
    rules: validate_pb2.FieldRules = field.GetOptions().Extensions[validate_pb2.field]
    return rules


def _number(field: FieldDescriptor, rules: validate_pb2.FieldRules) -> Schema:
    schema: Schema = {"type": "number", "format": "double"}
    if field.cpp_type in BITS:
        low, high = BITS[field.cpp_type]
        schema = {"type": "integer", "minimum": low, "maximum": high}
        if field.cpp_type in _FORMATS:
            schema["format"] = _FORMATS[field.cpp_type]
    kind = rules.WhichOneof("type")
    if kind is not None:
        _copy(getattr(rules, kind), schema, _BOUNDS)
    return schema


def _enum(enum: EnumDescriptor, rules: validate_pb2.FieldRules, request: bool) -> Schema:
    refused = list(rules.enum.not_in) if request else []
    values = [v for v in enum.values if not (request and reserved_value(v)) and v.number not in refused]
    lines = [f"`{short_name(v)}`: {description(f'{enum.full_name}.{v.name}')}" for v in values]
    return {"type": "string", "enum": [short_name(v) for v in values], "x-enum-descriptions": lines}


def _unset(field: FieldDescriptor) -> Schema:
    """What a field that must stay unset accepts: null and its zero."""
    if field.is_repeated:
        return {"type": ["array", "null"], "maxItems": 0}
    if field.message_type is not None or field.has_presence:
        return {"type": "null"}
    if field.cpp_type == F.CPPTYPE_STRING:
        return {"type": ["string", "null"], "maxLength": 0}
    if field.enum_type is not None:
        return {"enum": [short_name(field.enum_type.values_by_number[0]), None]}
    return {"enum": [False if field.cpp_type == F.CPPTYPE_BOOL else 0, None]}


def _nullable(schema: Schema) -> Schema:
    if "$ref" in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    nullable = {**schema, "type": [schema["type"], "null"]} if "type" in schema else schema
    if "enum" in nullable:
        nullable["enum"] = [*nullable["enum"], None]
    return nullable


def _copy(rules: Any, schema: Schema, names: dict[str, str]) -> None:
    present = {f.name: value for f, value in rules.ListFields()}
    schema.update({theirs: present[ours] for ours, theirs in names.items() if ours in present})


def _described(schema: Schema, full_name: str) -> Schema:
    text = description(full_name)
    return {**schema, "description": text} if text else schema
