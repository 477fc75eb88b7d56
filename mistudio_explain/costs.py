"""What a run cost, and what the same tokens would have cost elsewhere; formulas stand in docs/metrics.md.

Owns the price table (rules/prices.v1.json, or `<home>/rules/prices.json` in its place) and the sums.
Energy is measured in energy.py; what was spent at providers stands with each explanation.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from mistudio_core.errors import InvalidInput
from mistudio_explain.config import Costs, Explanation

PRICES_FILE = "prices.json"
"""Name of the administrator's table in `<home>/rules`."""
_OURS = "rules/prices.v1.json"
_PROVIDERS = ("openai", "anthropic")
_SIGNS = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenPrice:
    """What a provider takes for one model."""

    model: str
    """The model."""
    input_usd_per_million_tokens: float
    """US dollars for a million tokens of prompts."""
    output_usd_per_million_tokens: float
    """US dollars for a million tokens of answers."""

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """US dollars for so many tokens."""
        asked = prompt_tokens * self.input_usd_per_million_tokens
        return (asked + completion_tokens * self.output_usd_per_million_tokens) / 1e6


@dataclass(frozen=True, kw_only=True, slots=True)
class Prices:
    """A price table."""

    version: str
    """Its name."""
    date: str
    """When the prices were read, ISO 8601."""
    electricity_usd_per_kwh: float
    """US dollars for a kilowatt-hour."""
    rated_watts: Mapping[str, float]
    """Power that counts where energy is not measured, by `gpu` and `cpu`."""
    hardware_usd: float
    """What the machine cost that saves the provider."""
    openai: TokenPrice
    """OpenAI's price."""
    anthropic: TokenPrice
    """Anthropic's price."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Energy:
    """What local engines took."""

    wh: float = 0.0
    """Watt-hours."""
    method: str = "none"
    """`nvml`, `rated_power` or `none`."""


def load_prices(rules: Path | None = None) -> Prices:
    """The table in a folder of rules, else the built-in one. Raises InvalidInput, naming what is wrong in it."""
    own = rules / PRICES_FILE if rules is not None else None
    if own is not None and own.is_file():
        text = own.read_text(encoding="utf-8", errors="replace")
    else:
        text = resources.files("mistudio_explain").joinpath(_OURS).read_text(encoding="utf-8")
    try:
        return _prices(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput.field(
            "rules/prices.json", str(error), "the form of the built-in price table, numbers of at least 0"
        ) from error


def _prices(body: Mapping[str, Any]) -> Prices:
    known = set(Prices.__dataclass_fields__)
    if set(body) != known:
        raise ValueError(f"keys {', '.join(sorted(set(body) ^ known))}")
    sold = {
        name: TokenPrice(model=str(body[name]["model"]), **_amounts(name, body[name], skip="model"))
        for name in _PROVIDERS
    }
    figures = _amounts("prices", {k: body[k] for k in ("electricity_usd_per_kwh", "hardware_usd")})
    watts = _amounts("rated_watts", {k: body["rated_watts"][k] for k in ("gpu", "cpu")})
    return Prices(version=str(body["version"]), date=str(body["date"]), rated_watts=watts, **sold, **figures)  # type: ignore[arg-type]


def _amounts(where: str, values: Mapping[str, Any], *, skip: str = "") -> dict[str, float]:
    found = {name: value for name, value in values.items() if name != skip}
    for name, value in found.items():
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not good or value < 0:
            raise ValueError(f"{where}.{name}: {value}")
    return {name: float(value) for name, value in found.items()}


def cost_of(explanations: Sequence[Explanation], prices: Prices, energy: Energy) -> Costs:
    """The six figures, the energy behind them and what was really spent; what the cache gave cost nothing.

    Break-even: hardware price / what one feature saves against the cheaper provider, in features.
    """
    asked = [e for e in explanations if not e.cached]
    prompt, completion = sum(e.prompt_tokens for e in asked), sum(e.completion_tokens for e in asked)
    local = energy.wh / 1000 * prices.electricity_usd_per_kwh
    openai, anthropic = prices.openai.of(prompt, completion), prices.anthropic.of(prompt, completion)
    saved = min(openai, anthropic) - local
    return Costs(
        local_cost=round(local, _SIGNS),
        openai_cost=round(openai, _SIGNS),
        anthropic_cost=round(anthropic, _SIGNS),
        savings_vs_openai=round(openai - local, _SIGNS) + 0.0,
        savings_vs_anthropic=round(anthropic - local, _SIGNS) + 0.0,
        roi_break_even_features=round(prices.hardware_usd * len(asked) / saved, 1) if saved > 0 else None,
        energy_wh=round(energy.wh, _SIGNS),
        energy_method=energy.method,
        prices=f"{prices.version} {prices.date}",
        spent_usd=round(sum(e.cost_usd for e in explanations), _SIGNS),
    )
