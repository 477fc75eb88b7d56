"""google.api.http rules as compiled bindings: verb and path template to one RPC.

Literal segments win over mixed ones, those over `{name}`, those over `{name=**}`. A rule that cannot be
honoured stops the start.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import unquote_to_bytes

from google.api import http_pb2

from mistudio_core.errors import Internal, InvalidInput
from mistudio_rpc.contract import Contract, Method

_VARIABLE = re.compile(r"\{([a-z][a-z0-9_]*)(?:=(\*\*|\*))?\}")


@dataclass(frozen=True)
class Binding:
    """One way to reach an RPC over HTTP."""

    method: Method
    """The RPC."""
    verb: str
    """HTTP method, upper case."""
    template: str
    """Path template as in the .proto."""
    body: str
    """`*`, a field name, or empty."""
    response_body: str
    """The response field that is the reply, or empty for the whole message."""
    index: int
    """Position among the rules of its RPC; 0 is the main one."""

    @cached_property
    def variables(self) -> tuple[str, ...]:
        """Request fields that stand in the path."""
        return tuple(m[1] for m in _VARIABLE.finditer(self.template))

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """What raw request paths match."""
        out, end = "", 0
        for match in _VARIABLE.finditer(self.template):
            out += re.escape(self.template[end : match.start()])
            out += f"(?P<{match[1]}>{'.+' if match[2] == '**' else '[^/]+'})"
            end = match.end()
        return re.compile(out + re.escape(self.template[end:]))

    @property
    def open_path(self) -> str:
        """The template as OpenAPI writes it."""
        return _VARIABLE.sub(r"{\1}", self.template)

    @property
    def specificity(self) -> tuple[tuple[int, str], ...]:
        """Sorts the more literal template first."""
        return tuple((_rank(s), s) for s in self.template.split("/"))

    def match(self, raw_path: str) -> dict[str, str] | None:
        """The still encoded variables of a raw path; None where it does not match."""
        match = self.pattern.fullmatch(raw_path)
        return match.groupdict() if match else None


def decode_variable(name: str, raw: str) -> str:
    """A path variable as text; an encoded slash becomes a slash."""
    try:
        return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError as error:
        raise InvalidInput.field(name, raw, "UTF-8, percent-encoded") from error


def bindings(contract: Contract) -> list[Binding]:
    """Every HTTP binding of the contract, the most specific first. Internal RPCs have none."""
    found = []
    for method in contract:
        if method.policy is None:
            raise Internal(f"{method.path} declares no access policy: add (mistudio.contract.v1.policy).")
        if not method.is_internal:
            found += [_binding(method, rule, i) for i, rule in enumerate(method.http_rules)]
    return sorted(found, key=lambda b: b.specificity)


def _binding(method: Method, rule: http_pb2.HttpRule, index: int) -> Binding:
    kind = rule.WhichOneof("pattern")
    verb, template = (
        (rule.custom.kind, rule.custom.path) if kind == "custom" else (kind or "", getattr(rule, kind or ""))
    )
    binding = Binding(method, verb.upper(), template, rule.body, rule.response_body, index)
    fields = method.descriptor.input_type.fields_by_name
    unknown = [v for v in binding.variables if v not in fields]
    if unknown or "{" in _VARIABLE.sub("", template):
        raise Internal(f"{method.path}: the HTTP template {template} is not supported; use {{field}} or {{field=**}}.")
    if method.client_streaming and not method.receives_chunks:
        raise Internal(f"{method.path}: only a stream of chunks has an HTTP form; remove its google.api.http rule.")
    return binding


def _rank(segment: str) -> int:
    if "=**}" in segment:
        return 3
    if _VARIABLE.fullmatch(segment):
        return 2
    return 1 if "{" in segment else 0
