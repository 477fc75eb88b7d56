"""One engine's table in the engines file: what an administrator may set, and what is refused.

Owns the fields that all kinds share and their limits; a kind with more of its own has a subclass
in its own file, and settings.py says which.
"""

from __future__ import annotations

import ipaddress
import math
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from mistudio_core.address import is_loopback
from mistudio_core.errors import InvalidInput
from mistudio_explain.engines.addresses import LOCAL_KINDS, refusal

LEXICAL = "lexical"
"""Name and kind of the engine that is always there."""
VLLM, OLLAMA, OPENAI_COMPATIBLE, OPENAI, ANTHROPIC = "vllm", "ollama", "openai_compatible", "openai", "anthropic"
KINDS = (LEXICAL, VLLM, OLLAMA, OPENAI_COMPATIBLE, OPENAI, ANTHROPIC)
"""Every kind of engine."""
PAID_KINDS = (OPENAI, ANTHROPIC)
"""Kinds that always cost money."""
_NAME = re.compile(r"^[A-Za-z0-9._-]{1,100}$")
_NUMERIC = re.compile(r"(^|\.)(\d+|0[xX][0-9a-fA-F]*)\.?$")
_DEFAULT_URLS = {
    OLLAMA: "http://ollama.mistudio-services.svc:11434",
    OPENAI: "https://api.openai.com/v1",
    ANTHROPIC: "https://api.anthropic.com",
}
_RANGES: dict[str, tuple[float, float]] = {
    "connect_seconds": (0.01, 60),
    "first_byte_seconds": (0.01, 600),
    "total_seconds": (0.01, 3600),
    "attempts": (1, 20),
    "breaker_failures": (1, 1000),
    "breaker_seconds": (0.01, 3600),
    "concurrency": (1, 256),
    "context_tokens": (0, 10_000_000),
    "max_response_bytes": (1024, 1 << 30),
    "max_output_tokens": (16, 100_000),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSettings:
    """One configured engine. Raises InvalidInput for what cannot be used, by the key's name."""

    name: str
    """Name to use in requests."""
    kind: str
    """`lexical`, `vllm`, `ollama`, `openai_compatible`, `openai` or `anthropic`."""
    base_url: str = ""
    """For example `http://127.0.0.1:8000/v1`; empty for the kind's own address."""
    model: str = ""
    """Model unless a request names one; empty where the routing table chooses."""
    api_key_file: str = ""
    """File that holds the key; empty for none."""
    ca_file: str = ""
    """File with the certificates (PEM) that its https address is checked against; empty for the public ones."""
    allow_private: bool = False
    """Whether its host may have an address of a private network."""
    is_default: bool = False
    """Whether it is what a request without engine gets."""
    usd_per_million_input: float | None = None
    """US dollars for a million tokens of prompts; None where its use costs nothing."""
    usd_per_million_output: float | None = None
    """US dollars for a million tokens of answers; None where its use costs nothing."""
    concurrency: int = 64
    """Requests that it is given at a time."""
    context_tokens: int = 0
    """Tokens of prompt and answer together; 0 to ask the engine."""
    connect_seconds: float = 5.0
    """Time to connect."""
    first_byte_seconds: float = 30.0
    """Longest silence: until the first piece of an answer, and between its pieces."""
    total_seconds: float = 120.0
    """Time for one answer, waiting and retries included."""
    attempts: int = 4
    """Tries for one answer."""
    breaker_failures: int = 5
    """Failures in a row after which it is left alone for a while."""
    breaker_seconds: float = 5.0
    """How long it is left alone at first."""
    streaming: bool = True
    """Whether answers are read piece by piece; without it a silent engine is noticed only at total_seconds."""
    max_response_bytes: int = 262_144
    """Largest answer that is read."""
    max_output_tokens: int = 400
    """Tokens that the model may write."""

    def __post_init__(self) -> None:
        if not _NAME.match(self.name):
            raise InvalidInput.field("engines", self.name, "letters, digits, dot, dash and underscore, at most 100")
        if self.kind not in KINDS:
            raise self.problem("kind", self.kind, ", ".join(KINDS))
        if (self.kind == LEXICAL) != (self.name == LEXICAL):
            raise self.problem("kind", self.kind, "lexical for the engine of the name lexical and for no other")
        if self.kind == LEXICAL:
            return
        for name, (low, high) in _RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise self.problem(name, getattr(self, name), f"{low:g} to {high:g}")
        self.check_address()
        self.check_prices()
        self.check_model()

    @property
    def url(self) -> str:
        """Its address; the kind's own where none is configured."""
        return self.base_url or _DEFAULT_URLS.get(self.kind, "")

    @property
    def costs_money(self) -> bool:
        """Whether its use is paid for: never without a budget."""
        return self.kind in PAID_KINDS or bool(self.usd_per_million_input) or bool(self.usd_per_million_output)

    def problem(self, key: str, value: object, allowed: str, remedy: str = "") -> InvalidInput:
        """An error about one key of this table."""
        return InvalidInput.field(f"engines.{self.name}.{key}", value, allowed, remedy)

    def check_address(self) -> None:
        """Refuses an address that is none, or that its kind may not have. Names are looked up when they are used."""
        try:
            parts = urlsplit(self.url)
            host, _ = parts.hostname or "", parts.port
        except ValueError:
            parts, host = urlsplit(""), ""
        if parts.scheme not in ("http", "https") or not host or "@" in parts.netloc or parts.query or parts.fragment:
            # Behind an @ stands the host; before it may stand a password.
            shown = self.base_url.split("@")[-1]
            raise self.problem("base_url", shown, "an http or https URL without user, password, query and fragment")
        local = self.kind in LOCAL_KINDS or self.allow_private or is_loopback(host)
        if parts.scheme == "http" and not local:
            remedy = f"For a server of a private network set engines.{self.name}.allow_private = true."
            raise self.problem("base_url", self.base_url, "https; http only for this machine", remedy)
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            if _NUMERIC.search(host):
                raise self.problem("base_url", self.base_url, "a name, or an address in its usual form") from None
            return
        why = refusal(address, self.kind, host, allow_private=self.allow_private)
        if why:
            remedy = f"Set engines.{self.name}.allow_private = true to allow it." if "private" in why else ""
            raise self.problem("base_url", self.base_url, f"no {why}", remedy)

    def check_prices(self) -> None:
        """What costs money has both prices."""
        for key in ("usd_per_million_input", "usd_per_million_output"):
            value = getattr(self, key)
            if value is None and self.costs_money:
                raise self.problem(
                    key, "no price", "US dollars for a million tokens", "Without it nothing can be spent."
                )
            if value is not None and not (math.isfinite(value) and 0 <= value <= 1e6):
                raise self.problem(key, value, "0 to 1e+06")
        if self.kind in PAID_KINDS and not (self.usd_per_million_input and self.usd_per_million_output):
            raise self.problem("usd_per_million_input", 0, f"the prices of {self.kind}", "Its use is never free.")
        if self.kind in PAID_KINDS and not self.api_key_file:
            raise self.problem("api_key_file", "", "the file that holds the key")

    def check_model(self) -> None:
        """Only a server with several models can be without one."""
        if not self.model and self.kind in (*PAID_KINDS, OPENAI_COMPATIBLE):
            raise self.problem("model", self.model, "the name of a model")
