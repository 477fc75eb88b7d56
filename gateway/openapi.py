"""The OpenAPI 3.1 document of a contract: every HTTP binding with its schemas, rules and errors."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from mistudio.contract.v1 import options_pb2

from gateway.binding import Binding, bindings
from gateway.descriptions import description
from gateway.multipart import PART
from gateway.schema import Schema, Schemas, is_required
from gateway.upload import header_fields
from mistudio_rpc.contract import Contract

_INFO = {
    "title": "miStudio",
    "version": "1",
    "description": "Trains sparse autoencoders on language models, finds and explains their features. "
    "The same calls exist over gRPC.",
}
_ERROR: Schema = {
    "type": "object",
    "required": ["detail", "code", "reason", "metadata"],
    "properties": {
        "detail": {"type": "string", "description": "What is wrong, what is allowed, what to do."},
        "code": {"type": "string", "description": "gRPC status code, for example NOT_FOUND."},
        "reason": {"type": "string", "description": "Short name of a mistudio.error.v1.Reason."},
        "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
        "problems": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {n: {"type": "string"} for n in ("field", "value", "allowed", "remedy")},
                "required": ["field", "value", "allowed", "remedy"],
            },
        },
    },
}
_ERRORS = {
    "4XX": {"$ref": "#/components/responses/Error"},
    "5XX": {"$ref": "#/components/responses/Error"},
}


def document(contract: Contract) -> dict[str, Any]:
    """The whole document."""
    schemas, paths = Schemas(), dict[str, Any]()
    for binding in bindings(contract):
        paths.setdefault(binding.open_path, {})[binding.verb.lower()] = _operation(binding, schemas)
    tags = {b.method.service: b.method.owner for b in bindings(contract)}
    return {
        "openapi": "3.1.0",
        "info": _INFO,
        "tags": [{"name": owner, "description": description(name)} for name, owner in sorted(tags.items())],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": {**dict(sorted(schemas.components.items())), "Error": _ERROR},
            "responses": {"Error": _content("The error.", {"$ref": "#/components/schemas/Error"})},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"bearer": []}],
    }


def _operation(binding: Binding, schemas: Schemas) -> dict[str, Any]:
    method, text = binding.method, description(f"{binding.method.service}.{binding.method.name}")
    operation: dict[str, Any] = {
        "operationId": method.name if not binding.index else f"{method.name}_{binding.index + 1}",
        "tags": [method.owner],
        "summary": text.partition(". ")[0].rstrip("."),
        "description": text,
        "responses": {**_success(binding, schemas), **_ERRORS},
    }
    if method.policy is not None and method.policy.access == options_pb2.ACCESS_LEVEL_PUBLIC:
        operation["security"] = []
    if parameters := _parameters(binding, schemas):
        operation["parameters"] = parameters
    if method.receives_chunks:
        operation["requestBody"] = _multipart(binding, schemas)
    elif binding.body:
        operation["requestBody"] = _json_body(binding, schemas)
    return operation


def _parameters(binding: Binding, schemas: Schemas) -> list[dict[str, Any]]:
    fields = binding.method.descriptor.input_type.fields_by_name
    found = [_parameter(fields[name], "path", schemas) for name in binding.variables]
    if binding.body != "*" and not binding.method.receives_chunks:
        taken = {*binding.variables, binding.body}
        found += [
            _parameter(f, "query", schemas) for f in fields.values() if f.name not in taken and not f.message_type
        ]
    if binding.method.server_streaming and "after_sequence" in fields:
        schema = {"type": "string", "pattern": r"^\d{1,18}$"}
        text = "Id of the last event seen; as after_sequence, set by browsers when they connect again."
        found.append({"name": "Last-Event-ID", "in": "header", "schema": schema, "description": text})
    return found


def _parameter(field: FieldDescriptor, place: str, schemas: Schemas) -> dict[str, Any]:
    schema = _without_null(schemas.field(field, request=True))
    text = schema.pop("description", "")
    required = place == "path" or is_required(field)
    if place == "path" and schema.get("type") == "string" and "enum" not in schema:
        schema.setdefault("minLength", 1)
    return {"name": field.name, "in": place, "required": required, "schema": schema, "description": text}


def _without_null(schema: Schema) -> Schema:
    """A query cannot say null."""
    kinds = schema.get("type")
    if isinstance(kinds, list):
        schema = {**schema, "type": next(k for k in kinds if k != "null")}
    if "enum" in schema:
        schema = {**schema, "enum": [v for v in schema["enum"] if v is not None]}
    return schema


def _json_body(binding: Binding, schemas: Schemas) -> dict[str, Any]:
    message = binding.method.descriptor.input_type
    if binding.body != "*":
        schema = schemas.field(message.fields_by_name[binding.body], request=True)
    elif binding.variables:
        schema = schemas.object(message, request=True, without=binding.variables)
    else:
        schema = schemas.reference(message, request=True)
    required = any(is_required(f) for f in message.fields if f.name not in binding.variables)
    return {"required": required, "content": {"application/json": {"schema": schema}}}


def _multipart(binding: Binding, schemas: Schemas) -> dict[str, Any]:
    fields = header_fields(binding.method)
    file = {"type": "string", "format": "binary", "description": "The file, with its filename; the last part."}
    schema = {
        "type": "object",
        "required": [PART],
        "properties": {**{n: _without_null(schemas.field(f, request=True)) for n, f in fields.items()}, PART: file},
        "additionalProperties": False,
    }
    return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}


def _success(binding: Binding, schemas: Schemas) -> dict[str, Any]:
    method, output = binding.method, binding.method.descriptor.output_type
    text = description(output.full_name) or "Success."
    if method.sends_chunks:
        reply = {"description": "The file, as an attachment.", "content": {"*/*": {}}}
        resumable = "offset" in method.descriptor.input_type.fields_by_name
        return {"200": reply, "206": reply} if resumable else {"200": reply}
    field = output.fields_by_name.get(binding.response_body)
    schema = schemas.field(field, request=False) if field else schemas.reference(output, request=False)
    if method.server_streaming:
        return {"200": {"description": text, "content": {"text/event-stream": {"schema": _event(schema)}}}}
    return {"200": _content(text, schema)}


def _event(schema: Schema) -> Schema:
    """One event of a stream: OpenAPI before 3.2 lets the schema of `text/event-stream` describe each event."""
    data = {"anyOf": [schema, {"$ref": "#/components/schemas/Error"}]}
    return {
        "type": "object",
        "required": ["data"],
        "properties": {
            "id": {"type": "string", "description": "Sequence of a durable event: the Last-Event-ID to go on from."},
            "event": {"type": "string", "description": "What happened; `error` for an error, which ends the stream."},
            "data": {"type": "string", "contentMediaType": "application/json", "contentSchema": data},
        },
    }


def _content(text: str, schema: Schema) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": schema}}}
