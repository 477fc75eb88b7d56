"""Costs, energy and the figures of a run."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from mistudio_core.errors import InvalidInput
from mistudio_explain.costs import PRICES_FILE, Energy, cost_of, load_prices
from mistudio_explain.energy import EnergyMeter
from mistudio_explain.insights import reasons, summarise
from tests.support.explains import explanation


class Nvml:
    """NVML of two GPUs, one of which has no counter."""

    class NVMLError(Exception):
        """As the library's."""

    def __init__(self, *readings: int) -> None:
        self.readings = list(readings)

    def nvmlInit(self) -> None: ...

    def nvmlShutdown(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return f"GPU-{handle}"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        if handle:
            raise self.NVMLError("not supported")
        return self.readings.pop(0)


def test_rated_power_costs_what_it_should():
    prices = load_prices()
    energy = EnergyMeter(prices.rated_watts, on_gpu=True, nvml=SimpleNamespace(nvmlInit=_none, NVMLError=OSError))
    measured = energy.read(3600)
    assert (measured.wh, measured.method) == (350, "rated_power")
    assert cost_of([], prices, measured).local_cost == pytest.approx(0.035)


def _none() -> None:
    raise OSError("no driver")


def test_energy_is_the_difference_of_the_counters():
    measured = EnergyMeter({"gpu": 350, "cpu": 65}, on_gpu=True, nvml=Nvml(1_000_000, 4_600_000)).read()
    assert (measured.wh, measured.method) == (1.0, "nvml")
    fallen = EnergyMeter({"gpu": 350, "cpu": 65}, on_gpu=True, nvml=Nvml(5_000_000, 100)).read(36)
    assert (fallen.wh, fallen.method) == (3.5, "rated_power")
    assert EnergyMeter({"gpu": 350, "cpu": 65}, on_gpu=False, nvml=Nvml()).read(3600).wh == 65


def test_the_six_figures():
    given = {"prompt_tokens": 1_000_000, "completion_tokens": 100_000}
    asked = [explanation(0, **given), explanation(1, **given, cost_usd=0.5), explanation(2, cached=True, **given)]
    costs = cost_of(asked, load_prices(), Energy(wh=1000, method="nvml"))
    assert (costs.local_cost, costs.openai_cost, costs.anthropic_cost) == (0.1, 7.0, 9.0)
    assert (costs.savings_vs_openai, costs.savings_vs_anthropic) == (6.9, 8.9)
    assert costs.roi_break_even_features == pytest.approx(2 * 1500 / 6.9, abs=0.1)
    assert (costs.spent_usd, costs.energy_wh, costs.energy_method) == (0.5, 1000, "nvml")
    assert costs.prices == "prices/1 2025-10-01"
    assert cost_of([explanation(0)], load_prices(), Energy(wh=10)).roi_break_even_features is None


def test_an_own_price_table_replaces_ours_and_a_wrong_one_is_refused(tmp_path):
    body = {
        "version": "ours/2",
        "date": "2026-01-01",
        "electricity_usd_per_kwh": 0.3,
        "rated_watts": {"gpu": 100, "cpu": 10},
        "hardware_usd": 0,
        **{
            name: {"model": "m", "input_usd_per_million_tokens": 1, "output_usd_per_million_tokens": 2}
            for name in ("openai", "anthropic")
        },
    }
    file = tmp_path / PRICES_FILE
    file.write_text(json.dumps(body))
    assert load_prices(tmp_path).electricity_usd_per_kwh == 0.3
    for wrong in (
        {**body, "hardware_usd": -1},
        {**body, "more": 1},
        {k: v for k, v in body.items() if k != "date"},
        [],
    ):
        file.write_text(json.dumps(wrong))
        with pytest.raises(InvalidInput, match="price table"):
            load_prices(tmp_path)


def test_failures_and_the_cache_enter_no_average():
    failed = explanation(3, failure="no answer", explanation="", explanation_quality=0.0, latency_seconds=9.0)
    given = [
        explanation(0, latency_seconds=2.0, prompt_tokens=10),
        explanation(1, latency_seconds=0.0, cached=True, prompt_tokens=10),
        failed,
        explanation(2, engine="chat", model="m", latency_seconds=4.0, cost_usd=0.1),
    ]
    summary = summarise(given)
    assert summary.explanation_quality_average == pytest.approx((0.95 + 0.94 + 0.93) / 3, abs=1e-4)
    assert summary.failed == 1
    lexical, chat = summary.engines
    assert (lexical.explanations, lexical.failed, lexical.latency_average, lexical.prompt_tokens) == (2, 1, 2.0, 10)
    assert (chat.engine, chat.model, chat.cost_usd) == ("chat", "m", 0.1)


def test_what_a_person_should_look_at_has_its_reasons():
    assert reasons(explanation(0)) == ()
    odd = explanation(1, flags=("Low.",), safety_assessment="requires_review", pattern_verification="contradicted")
    assert len(reasons(odd)) == 3 and reasons(odd)[0] == "Low."
    said = ("Safety: it names a weapon.", "Held-out texts contradict it: accuracy 0.40.")
    assert (
        reasons(explanation(1, flags=said, safety_assessment="concerning", pattern_verification="contradicted")) == said
    )
    assert summarise([explanation(0), odd]).flagged == 1
