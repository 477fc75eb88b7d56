"""Explain runs with engines that fail, cost money, stand in for each other, are killed and cancelled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from mistudio_core.errors import Cancelled, InvalidInput, NotFound, Unavailable
from mistudio_explain import job
from mistudio_explain.config import ExplainConfig
from mistudio_explain.engines.settings import Engines
from mistudio_explain.evidence import FindEvidence
from mistudio_explain.explaining import Explaining
from mistudio_explain.judging import create_judge
from mistudio_explain.policy.pool import EnginePool
from mistudio_explain.policy.routing import Routing
from tests.support.chatservers import CANARY, GOOD, MISBEHAVIOURS, running
from tests.unit.explain.engine_tables import settings_for
from tests.unit.find.stores import D_SAE

ALL = tuple(range(D_SAE))


@pytest.fixture
def server():
    with running("openai") as server:
        yield server


@pytest.fixture
def settings(server, tmp_path):
    return settings_for("openai_compatible", server.url, tmp_path, name="local")


def afresh(make_context, folder):
    """A context that has kept nothing."""
    context = make_context()
    context.kept = folder / f"kept{len(list(folder.glob('kept*')))}"
    context.kept.mkdir()
    return context


def explained(context):
    return json.loads(context.reader("explanations").read_bytes(job.EXPLANATIONS_FILE))["explanations"]


def test_every_feature_has_its_result_or_a_counted_failure(server, settings, make_context):
    """One misbehaviour after the other, whichever feature gets it."""
    faults = [m for m in MISBEHAVIOURS if m not in ("slow", "silent", "drip")]
    server.mode = [mode for fault in faults for mode in (fault, "good")] + ["good"] * 500
    context = make_context()
    config = ExplainConfig(engine="local", feature_ids=ALL, concurrency=4)
    result = job.run(config, context, Engines.of(replace(settings, breaker_failures=100)))
    found = explained(context)
    assert sorted(e["feature_id"] for e in found) == list(ALL)
    assert all(bool(e["explanation"]) != bool(e["failure"]) for e in found)
    assert result.summary_insights.failed == sum(bool(e["failure"]) for e in found)
    for name, file in (("explanations", job.EXPLANATIONS_FILE), ("report", job.REPORT_FILE)):
        assert CANARY.encode() not in context.reader(name).read_bytes(file)
    assert not [line for _, line in context.log_lines if CANARY in line]


def test_an_answer_of_another_form_is_a_failure_without_quality(server, settings, make_context):
    server.mode = ["good", "wrong_schema", "good", "good"]
    context = make_context()
    result = job.run(ExplainConfig(engine="local", feature_ids=(0, 1, 2), concurrency=1), context, Engines.of(settings))
    failed = [e for e in explained(context) if e["failure"]]
    assert len(failed) == result.summary_insights.failed == 1
    assert (failed[0]["explanation_quality"], failed[0]["prompt_tokens"]) == (0, 7)
    good = [e["explanation_quality"] for e in explained(context) if not e["failure"]]
    assert result.summary_insights.explanation_quality_average == pytest.approx(sum(good) / 2, abs=1e-3)


def test_an_engine_that_refuses_is_an_error_unless_lexical_may_stand_in(server, settings, make_context):
    server.mode = "401"
    engines = Engines.of(settings)
    with pytest.raises(Unavailable, match="refuses the key") as refused:
        job.run(ExplainConfig(engine="local"), make_context(), engines)
    assert refused.value.reason == "ENGINE_UNAVAILABLE"
    assert CANARY not in str(refused.value)
    context = make_context()
    result = job.run(ExplainConfig(engine="local", allow_lexical_fallback=True, feature_ids=ALL), context, engines)
    assert {e["engine"] for e in explained(context)} == {"lexical"}
    assert "did not answer" in result.engine


def test_nothing_listens(make_context, tmp_path):
    gone = settings_for("openai_compatible", "http://127.0.0.1:9/v1", tmp_path, name="gone")
    with pytest.raises(Unavailable, match="Start it"):
        job.run(ExplainConfig(engine="gone"), make_context(), Engines.of(gone))


def test_a_missing_model_names_those_there_are(server, settings, make_context):
    server.mode = "404"
    with pytest.raises(NotFound, match="There are: m") as missing:
        job.run(ExplainConfig(engine="local", model="other"), make_context(), Engines.of(settings))
    assert missing.value.reason == "MODEL_NOT_FOUND"


def test_another_engine_stands_in_altogether_or_for_single_features(server, settings, make_context, tmp_path):
    with running("ollama") as other:
        second = settings_for("ollama", other.url, tmp_path, model="")
        engines = Engines.of(settings, second, fallback=("ollama",))
        config = ExplainConfig(engine="local", feature_ids=ALL, concurrency=1)
        server.mode = ["good", "401", *["good"] * 20]
        context = make_context()
        result = job.run(config, context, engines)
        assert sorted(e["engine"] for e in explained(context)) == ["local"] * (D_SAE - 1) + ["ollama"]
        assert "did not always answer" in result.engine
        server.mode = "401"
        context = afresh(make_context, tmp_path)
        job.run(config, context, engines)
        assert {e["engine"] for e in explained(context)} == {"ollama"}
        assert any("stands in" in line for _, line in context.log_lines)


def test_a_provider_stands_in_for_few_features_and_never_without_a_budget(server, settings, make_context, tmp_path):
    with running("anthropic") as cloud:
        paid = settings_for("anthropic", cloud.url, tmp_path)
        engines = Engines.of(settings, paid, fallback=("anthropic",))
        server.mode = "wrong_schema"
        config = ExplainConfig(engine="local", feature_ids=ALL, concurrency=1)
        result = job.run(config, make_context(), engines)
        assert (len(cloud.seen), result.summary_insights.failed) == (0, D_SAE)
        context = afresh(make_context, tmp_path)
        job.run(replace(config, budget_usd=5.0), context, engines)
        assert cloud.chats == []  # one of eight would be more than a twentieth


async def test_a_provider_stands_in_for_less_than_a_twentieth(server, settings, tmp_path, features):
    find = FindEvidence(features)
    evidence = find.choose(feature_ids=ALL, min_coherence=0, max_features=D_SAE)
    with running("anthropic") as cloud:
        server.mode = "wrong_schema"
        engines = Engines.of(settings, settings_for("anthropic", cloud.url, tmp_path), fallback=("anthropic",))
        config = ExplainConfig(engine="local", budget_usd=5.0)
        pool = EnginePool(engines, config, kept=tmp_path)
        explaining = Explaining(config, engines, settings, pool, idf=find.idf, total=60)
        judge = create_judge("lexical")
        found = [await explaining.feature(e, judge) for e in evidence]
        await pool.close()
    assert [e.engine for e in found if not e.failure] == ["anthropic"] * 2
    assert all(e.cost_usd > 0 for e in found if not e.failure)
    assert len(cloud.chats) == 2


def test_a_run_on_a_provider_wants_a_budget_and_keeps_to_it(make_context, tmp_path):
    with running("anthropic") as cloud:
        table = settings_for("anthropic", cloud.url, tmp_path, usd_per_million_input=10.0, usd_per_million_output=10.0)
        engines = Engines.of(table)
        config = ExplainConfig(engine="anthropic", feature_ids=ALL, concurrency=8)
        with pytest.raises(InvalidInput, match="budget_usd"):
            job.run(config, make_context(), engines)
        assert cloud.seen == []
        context = make_context()
        result = job.run(replace(config, budget_usd=0.1), context, engines)
        costs = result.summary_insights.costs
        assert 0 < costs.spent_usd == pytest.approx(sum(e["cost_usd"] for e in explained(context)), abs=1e-6)
        assert costs.spent_usd == pytest.approx(len(cloud.chats) * 10 * 10 / 1e6, abs=1e-6)
        context = afresh(make_context, tmp_path)
        result = job.run(replace(config, budget_usd=0.001), context, engines)
        assert result.summary_insights.failed == D_SAE
        assert "raise budget_usd" in explained(context)[0]["failure"]


def test_models_are_chosen_by_category_and_complexity(make_context, tmp_path):
    with running("ollama") as server:
        server.models = ["llama3.1:8b", "codellama:13b", "llama3.1:70b", "other:1b"]
        table = settings_for("ollama", server.url, tmp_path, model="")
        context = make_context()
        job.run(ExplainConfig(engine="ollama", feature_ids=ALL), context, Engines.of(table))
        expected = {"behavioral": "llama3.1:70b"}
        for e in explained(context):
            assert e["model"] == expected.get(e["pattern_category"], e["model"])
            assert e["model"] in ("llama3.1:8b", "codellama:13b", "llama3.1:70b")
        server.models = []
        with pytest.raises(NotFound, match="has no model"):
            job.run(ExplainConfig(engine="ollama"), afresh(make_context, tmp_path), Engines.of(table))


def test_a_role_may_be_another_engine_s(server, settings, make_context, tmp_path):
    with running("ollama") as other:
        table = settings_for("ollama", other.url, tmp_path, model="", is_default=True)
        rules = [{"role": "large", "categories": ["technical"]}, {"role": "small"}]
        routing = Routing.parse({"rules": rules, "models": {"small": {"engine": "local"}, "large": "m:latest"}})
        context = make_context()
        job.run(ExplainConfig(feature_ids=ALL), context, Engines.of(settings, table, routing=routing))
    by_category = {(e["pattern_category"] == "technical", e["engine"], e["model"]) for e in explained(context)}
    assert by_category <= {(True, "ollama", "m:latest"), (False, "local", "m")}
    assert server.chats


def test_an_engine_that_goes_away_costs_the_run_its_features_and_no_more(server, settings, make_context):
    server.mode = ["good"] * 3 + ["reset"] * 500
    table = replace(settings, total_seconds=0.5, breaker_failures=2)
    context = make_context()
    result = job.run(ExplainConfig(engine="local", feature_ids=ALL, concurrency=1), context, Engines.of(table))
    assert result.summary_insights.failed == D_SAE - 3
    assert len(explained(context)) == D_SAE
    assert any("not waited for" in line for _, line in context.log_lines)


def test_low_quality_is_asked_again_then_flagged(server, settings, make_context):
    server.text = json.dumps({"explanation": "It fires on zebras. Nothing else is known.", "keywords": ["zebra"]})
    context = make_context()
    job.run(ExplainConfig(engine="local", feature_ids=ALL, min_quality=0.9), context, Engines.of(settings))
    found = explained(context)
    assert all(any("below" in flag for flag in e["flags"]) for e in found)
    assert len(server.chats) == sum(e["attempts"] for e in found)
    assert any(e["attempts"] > 1 for e in found)


def test_a_second_run_takes_answers_from_the_cache(server, settings, make_context, tmp_path):
    home = job.Home(tmp_path / "home")
    config = ExplainConfig(engine="local", feature_ids=ALL)
    for _ in range(2):
        context = afresh(make_context, tmp_path)
        job.run(config, context, Engines.of(settings), home)
    assert all(e["cached"] for e in explained(context))
    assert len(server.chats) <= len(ALL)


def test_a_cancel_ends_a_run_that_waits(server, settings, make_context):
    """The server keeps still until the test ends."""
    server.mode = "silent"
    context = make_context()

    def cancel():
        while not server.chats:
            time.sleep(0.01)
        context.cancelled = True

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(Cancelled):
        job.run(ExplainConfig(engine="local", feature_ids=ALL), context, Engines.of(settings))
    thread.join()
    assert context.artifacts == []


KILLED = """
import sys
from pathlib import Path
from mistudio_core.jobs.local import LocalContext
from mistudio_explain import job
from mistudio_explain.config import ExplainConfig
from mistudio_explain.engines.settings import Engines
from tests.unit.explain.engine_tables import settings_for
from tests.unit.find.stores import Folder
settings = settings_for("openai_compatible", sys.argv[1], Path(sys.argv[2]), name="local")
context = LocalContext(Path(sys.argv[2]) / "explain", inputs={"features": Folder(Path(sys.argv[3]))})
job.run(ExplainConfig(engine="local", feature_ids=tuple(range(8)), concurrency=1), context, Engines.of(settings))
"""


def test_a_killed_run_does_not_ask_again_for_what_was_finished(server, settings, make_context, features, tmp_path):
    server.mode = ["good"] * 3 + ["silent"] + ["good"] * 100
    folder = features.path("features.idx").parent
    run = subprocess.Popen([sys.executable, "-c", KILLED, server.url, str(tmp_path), str(folder)])
    while len(server.chats) < 4 and run.poll() is None:
        time.sleep(0.02)
    os.kill(run.pid, signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    context = make_context()
    job.run(ExplainConfig(engine="local", feature_ids=ALL, concurrency=1), context, Engines.of(settings))
    assert len(explained(context)) == D_SAE
    # Three before the kill, one killed, and the other five once.
    assert len(server.chats) == 4 + D_SAE - 3


def test_where_few_reach_the_coherence_a_line_says_what_to_pass(make_context, tmp_path):
    context = make_context()
    config = ExplainConfig(min_coherence=0.99)
    job.run(config, context)
    line = next(text for level, text in context.log_lines if "min_coherence" in text)
    passed = float(line.partition("Pass min_coherence ")[2].split()[0])
    again = afresh(make_context, tmp_path)
    wanted = int(line.rstrip(".").split()[-1])
    assert job.run(replace(config, min_coherence=passed), again).total_features_processed == wanted > 0


def test_good_answers_score(server, settings, make_context):
    assert json.loads(GOOD)["keywords"] == ["token"]
    context = make_context()
    result = job.run(ExplainConfig(engine="local", feature_ids=ALL), context, Engines.of(settings))
    assert result.summary_insights.failed == 0
    assert [e.engine for e in result.summary_insights.engines] == ["local"]
    assert max(e["quality_parts"]["accuracy"] for e in explained(context)) == 1.0
