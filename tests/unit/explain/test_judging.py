"""Judges: what an explanation's words match, how scores become a figure, and how a model's answers are read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from mistudio_core.errors import Unsupported
from mistudio_core.home import Home
from mistudio_explain import job
from mistudio_explain.config import ExplainConfig
from mistudio_explain.engines.base import ChatRequest, Failure, Limits, Reply
from mistudio_explain.explainer import Draft
from mistudio_explain.judging import create_judge, judge_name, shuffled_control
from mistudio_explain.judging.base import accuracy_of
from mistudio_explain.judging.embedding import cosines
from mistudio_explain.judging.model import ModelJudge, read_fits, usable
from mistudio_explain.judging.reading import read, score
from tests.support.tinymodels import make
from tests.unit.explain.made_evidence import evidence, idf, judged
from tests.unit.find.stores import WORD

HARBOUR = Draft(explanation='Fires on the word "harbour".', keywords=("harbour",), engine="x", model="y")
WRONG = Draft(explanation='Fires on the word "carrot".', keywords=("carrot",), engine="x", model="y")


def weight(text: str, explanation: str, listed: tuple[str, ...] = ()) -> float:
    """The score times the text's length in words: the sum of what matched."""
    return score(text, read(explanation, listed, idf)) * max(1, len(re.findall(r"\w+", text)))


def test_words_weigh_by_where_they_stand():
    assert weight("a carrot here", 'Fires on "carrots".') == pytest.approx(1.0 * 2)
    assert weight("a carrot here", "Fires.", ("carrot",)) == pytest.approx(0.7 * 2)
    assert weight("a carrot here", "Fires on carrots.") == pytest.approx(0.25 * 2)
    assert weight("a carrot here", "The feature fires on tokens of this pattern.") == 0.0
    assert weight("the carrotcake", 'Fires on "carrot".') == pytest.approx(0.25 * 2)
    assert weight("one", "Fires.") == 0.0
    assert score("", read('Fires on "x".', (), idf)) == 0.0


def test_a_common_word_that_was_chosen_counts():
    rare, common = (score("and", read('Fires on "and".', (), lambda word, i=i: i)) for i in (3.0, 0.1))
    assert (rare, common) == (3.0, 1.0)


def test_signs_parts_and_shapes_are_matched_as_they_are():
    assert weight("see (this) word", 'Fires on the sign "(".') == pytest.approx(2.0)
    assert weight("f(g(x))", 'Fires on the sign "(".') == pytest.approx(2.0 * 1.3)
    assert weight("see this word", 'Fires on the sign "(".') == 0.0
    assert weight("a subset", 'Fires on the word part "su".') == pytest.approx(2.0)
    assert weight("page 17", "Fires on numbers.") == pytest.approx(2.0)
    assert weight("see NASA", "Fires on words in capital letters.") == pytest.approx(2.0)
    assert weight("no figure here", "Fires on numbers.") == 0.0


def test_long_texts_have_no_advantage():
    reading = read('Fires on "harbour".', (), idf)
    assert score("harbour " + "dull " * 9, reading) == pytest.approx(score("harbour", reading) / 10)


def test_a_figure_is_the_auroc_of_the_scores_that_there_are():
    texts = judged(["a", "b", "c"], ["d", "e", "f"], ("g",))
    found = accuracy_of("m/1", texts, [3.0, 2.0, None, 2.0, 0.0, 1.0, 2.5], seed=0)
    assert found.value == pytest.approx((3 + 2.5) / 6)
    assert (found.activating, found.silent, found.failures, found.method) == (2, 3, 1, "m/1")
    assert found.near == pytest.approx(0.5)
    assert 0 <= found.low <= found.value <= found.high <= 1
    nothing = accuracy_of("m/1", texts, [None] * 7, seed=0)
    assert (nothing.value, nothing.low, nothing.high, nothing.near, nothing.failures) == (0.5, 0.0, 1.0, None, 7)


async def test_the_lexical_judge_tells_right_from_wrong_and_from_chance():
    judge = create_judge("lexical")
    right = await judge.accuracy(HARBOUR, evidence(), idf, seed=0)
    wrong = await judge.accuracy(WRONG, evidence(), idf, seed=0)
    assert (right.value, wrong.value, right.failures) == (1.0, 0.5, 0)
    assert right.method == "lexical-auroc/2"


async def test_a_shuffled_assignment_keeps_nobody_his_own():
    names = ["alpha", "beta", "gamma", "delta"]
    pairs = [
        (
            Draft(explanation=f'Fires on "{n}".', keywords=(), engine="x", model="y"),
            evidence(feature_id=i, judge=judged([f"see {n}"] * 4, ["see it"] * 4)),
        )
        for i, n in enumerate(names)
    ]
    judge = create_judge("lexical")
    assert [(await judge.accuracy(d, e, idf, seed=0)).value for d, e in pairs] == [1.0] * 4
    for seed in range(5):
        assert [a.value for a in await shuffled_control(judge, pairs, idf, seed=seed)] == [0.5] * 4
    with pytest.raises(ValueError, match="two"):
        await shuffled_control(judge, pairs[:1], idf, seed=0)


class Scripted:
    """An engine that answers by a function of the request."""

    name = kind = model = "scripted"

    def __init__(self, answer, context: int = 0) -> None:
        self.answer, self.asked = answer, []
        self.limits = Limits(concurrency=4, context_tokens=context, max_output_tokens=400)

    async def chat(self, request: ChatRequest):
        self.asked.append(request)
        found = self.answer(request)
        return found if isinstance(found, Failure) else Reply(text=found, model="m", prompt_tokens=10)


def by_word(request: ChatRequest) -> str:
    """Fits where a text holds the word between quotes."""
    wanted = request.prompt.split('"')[1]
    lines = [re.match(r"(\d+)\. (.*)", line) for line in request.prompt.splitlines()]
    return json.dumps({"texts": [{"text": int(m[1]), "fits": 1.0 if wanted in m[2] else 0.1} for m in lines if m]})


FEATURE = evidence(
    judge=judged([f"harbour {n}" for n in range(10)], [f"desert {n}" for n in range(10)], ("harbour x",))
)


async def test_the_model_judge_asks_in_batches_in_a_random_order_without_labels():
    engine = Scripted(by_word)
    judge = ModelJudge(engine)
    right = await judge.accuracy(HARBOUR, FEATURE, idf, seed=1)
    assert (right.value, right.near, right.failures) == (1.0, 0.5, 0)
    assert (right.prompt_tokens, right.method) == (30, "model-auroc/1 (scripted)")
    prompts = [r.prompt for r in engine.asked]
    assert len(prompts) == 3
    assert sum("harbour 0\n" in p for p in prompts) == 1
    assert any("harbour" in p and "desert" in p for p in prompts)
    assert not any(t.text in p for t in FEATURE.top for p in prompts)
    assert len({p.split("<<")[1].split(">>")[0] for p in prompts}) == 3
    engine.asked.clear()
    await judge.accuracy(HARBOUR, FEATURE, idf, seed=2)
    assert [r.prompt for r in engine.asked] != prompts


async def test_answers_that_cannot_be_read_are_counted_and_enter_no_figure():
    broken = Failure(kind="timeout", message="late")
    nothing = await ModelJudge(Scripted(lambda request: broken)).accuracy(HARBOUR, FEATURE, idf, seed=0)
    assert (nothing.value, nothing.failures, nothing.low, nothing.high) == (0.5, 21, 0.0, 1.0)
    calls = iter(range(9))
    one_bad = await ModelJudge(Scripted(lambda r: "Sure!" if next(calls) == 0 else by_word(r))).accuracy(
        HARBOUR, FEATURE, idf, seed=0
    )
    assert (one_bad.value, one_bad.failures) == (1.0, 10)
    assert one_bad.activating + one_bad.silent < 20


async def test_a_short_context_gets_smaller_batches():
    engine = Scripted(by_word, context=1400)
    await ModelJudge(engine).accuracy(HARBOUR, FEATURE, idf, seed=0)
    assert len(engine.asked) == 11


@pytest.mark.parametrize(
    ("answer", "fits"),
    [
        ('{"texts": [{"text": 2, "fits": 1}, {"text": 1, "fits": 0.25}]}', [0.25, 1.0]),
        ('{"texts": [{"text": 1, "fits": true}, {"text": 2, "fits": "No"}]}', [1.0, 0.0]),
        ('{"texts": [{"text": 1, "fits": 0.5}, {"text": 1, "fits": 0.5}]}', [None, None]),
        ('{"texts": [{"text": 1, "fits": 7}, {"text": 2, "fits": null}, {"text": 3, "fits": 1}]}', [None, None]),
        ('{"texts": [{"text": true, "fits": 1}, 4, {"text": "2", "fits": 1}]}', [None, None]),
        ('{"texts": {"1": 1}}', [None, None]),
        ('{"texts": [{"text": 1, "fits": NaN}]}', [None, None]),
        ("[1, 0]", [None, None]),
        ("{", [None, None]),
        ("[" * 100_000, [None, None]),
    ],
)
def test_only_one_usable_entry_a_text_counts(answer, fits):
    assert read_fits(answer, 2) == fits
    assert usable(answer) == (fits[0] is not None)


def test_cosines_leave_out_what_all_texts_share():
    common = np.array([100.0, 0.0, 0.0])
    texts = common + np.array([[0.0, 1.0, 0.0], [0.0, -1.0, 0.0]])
    assert cosines(texts, common + np.array([0.0, 3.0, 0.0])) == pytest.approx([1.0, -1.0])
    assert cosines(np.zeros((0, 3)), common).shape == (0,)
    assert cosines(np.ones((2, 3)), np.ones(3)).tolist() == [0.0, 0.0]


async def test_the_embedding_judge_runs_a_local_model(tmp_path: Path):
    make(tmp_path / "tiny")
    judge = create_judge("embedding", model="tiny", model_root=tmp_path)
    await judge.check()
    found = await judge.accuracy(HARBOUR, FEATURE, idf, seed=0)
    assert (found.method, found.failures, found.activating) == ("embedding-auroc/1 (tiny)", 0, 10)
    assert found == await judge.accuracy(HARBOUR, FEATURE, idf, seed=0)
    await judge.close()


def test_a_run_is_judged_by_the_embeddings_of_a_local_model(tmp_path: Path, make_context):
    make(tmp_path / "home" / "models" / "tiny")
    context = make_context()
    config = ExplainConfig(judge_engine="embedding", judge_model="tiny", feature_ids=(WORD,))
    job.run(config, context, home=Home(tmp_path / "home"))
    body = json.loads(context.reader("explanations").read_bytes(job.EXPLANATIONS_FILE))
    parts = body["explanations"][0]["quality_parts"]
    assert (parts["accuracy_method"], parts["activating_texts"]) == ("embedding-auroc/1 (tiny)", 10)
    with pytest.raises(Unsupported, match="judge_model"):
        job.run(ExplainConfig(judge_engine="embedding"), make_context(), home=Home(tmp_path / "home"))


def test_judges_are_chosen_by_name_and_refused_before_any_work(tmp_path):
    assert [judge_name("a", "b"), judge_name("", "b"), judge_name("")] == ["a", "b", "lexical"]
    with pytest.raises(Unsupported, match="lexical"):
        create_judge("gpt")
    with pytest.raises(Unsupported, match="judge_model"):
        create_judge("embedding")
    with pytest.raises(Unsupported, match="would have to be downloaded"):
        create_judge("embedding", model="nowhere/model", model_root=tmp_path)
