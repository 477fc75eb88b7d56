"""`mistudio engines compare`: the same features through two engines, side by side."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from mistudio.explain.v1 import explain_service_pb2, explanation_pb2

from benchmarks.word_features import analysis, put
from mistudio_cli.__main__ import run_command
from mistudio_cli.engine_compare import row_of
from mistudio_core.home import Home
from tests.support.processes import control_process
from tests.support.vllm_standin import standin_python


@pytest.fixture
def find_job_id(home: Home, tmp_path: Path) -> str:
    (home.models / "tiny").mkdir(parents=True)
    (home.models / "tiny" / "config.json").write_text('{"hidden_size": 8}')
    home.engines_file.write_text(
        '[engines.local]\nkind = "vllm"\nmodel = "tiny"\ndevices = ["cpu:0"]\nkv_cache_gb = 0.01\n'
        f'python = "{standin_python(tmp_path / "standin")}"\n'
    )
    return asyncio.run(put(home, analysis(tmp_path, features=6, documents=300)))


def test_a_row_has_seconds_tokens_and_the_interval():
    slow = explanation_pb2.EngineSummary(model="b", explanations=1, latency_average=4.0, prompt_tokens=1500)
    quick = explanation_pb2.EngineSummary(model="a", explanations=3, latency_average=0.0, completion_tokens=7)
    insights = explanation_pb2.SummaryInsights(engines=[slow, quick], explanation_quality_average=0.5, failed=1)
    result = explain_service_pb2.GetExplainResultResponse(summary_insights=insights, total_features_processed=5)
    change = explain_service_pb2.CompareExplainsResponse(
        quality_change_average=0.1, quality_change_low=-0.05, quality_change_high=0.25
    )
    row = row_of("local=a", result, change)
    assert row[:7] == ("local", "a, b", 5, 1, "0.500", "0.000", "1.00")
    assert row[7:] == ("1,500", "7", "0.0000", "+0.100 [-0.050, +0.250]")


def test_two_engines_side_by_side(home: Home, find_job_id: str, capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MISTUDIO_TOKEN", home.token().reveal())
    at = ["--home", str(home.root), "--address", home.control_target]
    compare = ["engines", "compare", find_job_id, "--min-coherence", "0", "--max-features", "6"]
    with control_process(home, "explain"):
        assert run_command([*compare, "--engine", "lexical", *at]) == 1
        assert "two or more different engines" in capsys.readouterr().err
        assert run_command([*compare, "--engine", "lexical", "--engine", "local=tiny", *at, "--json"]) == 0
        lines = capsys.readouterr().out.splitlines()
        first, second = json.loads(lines[-1])["engines"]
    assert (first["engine"], second["engine"]) == ("lexical", "local=tiny")
    tokens = second["result"]["summary_insights"]["engines"][0]
    assert (tokens["model"], tokens["completion_tokens"]) == ("tiny", 12 * second["result"]["total_features_processed"])
    assert second["compared"]["total_pairs"] == first["result"]["total_features_processed"] > 0
