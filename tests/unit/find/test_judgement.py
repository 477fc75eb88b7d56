"""Category, tags, behaviours and complexity by rules, and rules that users bring."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mistudio_core.errors import InvalidInput
from mistudio_core.jobs.local import LocalContext
from mistudio_find import job
from mistudio_find.config import FindConfig
from mistudio_find.corpus_index import build_index
from mistudio_find.judgement import Evidence, build_judge, category_of, complexity, runs_of, variety
from mistudio_find.pages import FeaturePages
from mistudio_find.rulebook import available, load_rules
from mistudio_torch.codes import CodesReader
from tests.unit.find.stores import DEAD, TOPIC, WORD, Folder, write_store

MINE = {"tags": {"cookery": {"words": ["Soup", "butter", "salt", "oven", "bread", "flour", "pepper", "onion"]}}}


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judged")
    codes = CodesReader.from_folder(write_store(folder / "codes"))
    (folder / "index").mkdir()
    return build_index(codes, folder / "index", lambda share: None)


def evidence(keywords, texts=("x",), spans=None):
    n = len(texts)
    return Evidence(
        keywords=keywords,
        words=np.zeros((n, 17), np.int32),
        inside=np.zeros((n, 17), bool),
        texts=texts,
        units=np.arange(n, dtype=np.int32),
        spans=np.ones(n, np.int64) if spans is None else spans,
        places=np.linspace(0, 0.99, n),
    )


@pytest.mark.parametrize(
    ("keywords", "category"),
    [
        (["json", "schema", "api"], "technical"),
        (["monday", "week", "1999"], "temporal"),
        (["you", "thanks", "hello"], "conversational"),
        (["cannot", "refuse", "decide"], "behavioral"),
        (["butter", "soup"], "general"),
    ],
)
def test_categories_follow_the_rules(index, keywords, category):
    found = build_judge(load_rules(), index).about([evidence(keywords)])[0]
    assert found["pattern_category"] == category
    assert 0 < found["category_confidence"] <= 1


@pytest.mark.parametrize(
    ("texts", "behavior"),
    [
        (['{"name": "schema", "type": "object"}'] * 4, "structured_data"),
        (["<note>xml</note> <tag/>"] * 4, "markup"),
        (["User: hello\nAssistant: hi"] * 4, "chat_roles"),
        (["I am sorry, I cannot help with that."] * 4, "refusal"),
        (["please use the search tool"] * 4, "tool_use"),
        (["every 15 minutes or 5 min"] * 4, "scheduling"),
        (["I can not do it, I am unable to."] * 4, "capability_assessment"),
    ],
)
def test_behaviours_show_in_texts(index, texts, behavior):
    found = build_judge(load_rules(), index).about([evidence(["zzz"], texts)])[0]["behavioral_indicators"]
    assert behavior in [indicator["name"] for indicator in found]
    scores = [indicator["score"] for indicator in found]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score <= 1 for score in scores)


def test_tags_name_subjects_best_first(index):
    judge = build_judge(load_rules(), index)
    assert judge.about([evidence(["soup", "butter", "oven", "guitar"])])[0]["semantic_tags"][0] == "food"
    assert judge.about([evidence(["json", "xml", "schema"])])[0]["semantic_tags"][0] == "data formats"
    assert judge.about([evidence(["zzz"])])[0]["semantic_tags"] == []


def test_words_that_stand_everywhere_are_no_sign(index):
    rules = load_rules()
    judge = build_judge(rules, index)
    seventeen = np.array([index.vocabulary.index("the")] * 17)
    common = judge.behaviors
    assert (common.chance >= 0).all() and (common.chance <= 1).all()
    given = evidence([], ["x"] * 10)
    words = Evidence(
        keywords=[],
        words=np.tile(seventeen, (10, 1)).astype(np.int32),
        inside=np.ones((10, 17), bool),
        texts=given.texts,
        units=given.units,
        spans=given.spans,
        places=given.places,
    )
    assert judge.about([words])[0]["behavioral_indicators"] == []


def test_complexity_grows_with_what_varies():
    rules = load_rules()
    simple = dict.fromkeys(rules.weights, 0.0)
    assert complexity(rules, simple) == "low"
    assert complexity(rules, simple | {"token_variety": 1.0}) == "medium"
    assert complexity(rules, dict.fromkeys(rules.weights, 1.0)) == "high"
    assert [variety(np.array(v)) for v in ([1, 1, 1], [7], [])] == [0, 0, 0]
    assert variety(np.arange(20)) == pytest.approx(1)
    assert 0 < variety(np.array([1, 1, 1, 2])) < 1


def test_runs_end_where_a_token_is_silent_or_a_document_ends():
    positions, docs = np.array([2, 3, 4, 8, 9, 10, 11]), np.array([0] * 10 + [1] * 5)
    assert runs_of(positions, np.array([3, 4, 8, 10]), docs).tolist() == [3, 3, 2, 2]
    assert runs_of(np.arange(100), np.array([50]), np.zeros(100, int)).tolist() == [33]
    assert runs_of(positions, np.zeros(0, np.int64), docs).tolist() == []


def test_a_category_is_surer_the_farther_the_next_is():
    rules = load_rules()
    alone, beside = (category_of(rules, np.array(s)) for s in ([0.8, 0, 0, 0], [0.8, 0.7, 0, 0]))
    assert alone[0] == beside[0] == "technical"
    assert alone[1] > beside[1]
    assert category_of(rules, np.full(4, 0.1)) == ("general", 0.9)


def test_own_rules_replace_parts_of_the_built_in_ones(tmp_path):
    rules = tmp_path / "rules"
    rules.mkdir()
    (rules / "kitchen.json").write_text(json.dumps(MINE))
    write_store(tmp_path / "codes")
    context = LocalContext(tmp_path / "job", inputs={"codes": Folder(tmp_path / "codes")})
    job.run(FindConfig(rules="kitchen", rules_root=rules), context)
    pages = FeaturePages(context.reader("analysis"))
    assert pages.feature(TOPIC)["semantic_tags"] == ["cookery"]
    assert pages.feature(DEAD)["semantic_tags"] == [] and pages.feature(DEAD)["category_confidence"] == 0
    word = {m["name"]: m["score"] for m in pages.feature(WORD)["complexity_measures"]}
    topic = {m["name"]: m["score"] for m in pages.feature(TOPIC)["complexity_measures"]}
    assert word["token_variety"] < topic["token_variety"]
    body = json.loads(context.reader("analysis").read_bytes("feature_analysis.json"))
    versions = body["job_metadata"]["versions"]
    assert versions["categories"].startswith("kitchen+") and {"tags", "complexity", "coherence"} <= set(versions)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("[1]", "no JSON object"),
        ("{", "Expecting property name"),
        ('{"tag": {}}', "unknown parts tag; known are version, order"),
        ('{"order": ["technical"]}', r"\(in categories\): order must name each category once"),
        ('{"tags": {"a": {"word": []}}}', r"\(in tags\): 'a' has unknown keys word; known are"),
        ('{"tags": {"a": {"words": "soup"}}}', "words of 'a' must be a list of strings"),
        ('{"behaviors": {"a": {"text_patterns": ["("]}}}', r"\(in behaviors\)"),
        ('{"behaviors": {"a": {"text_patterns": ["a*"]}}}', "matches an empty text"),
        ('{"order": ["odd"], "categories": {"odd": {}}}', "odd: categories are technical"),
        ('{"complexity": {"weights": {}}}', r"\(in complexity\): weights must be of token_variety"),
        ('{"tags": {"": {}}}', "a name has 1 to 100 characters"),
    ],
)
def test_rules_that_cannot_be_used_are_refused(tmp_path, body, says):
    (tmp_path / "mine.json").write_text(body)
    with pytest.raises(InvalidInput, match=rf"mine\.json cannot be used.*{says}.*shows the form"):
        load_rules("mine", tmp_path)


@pytest.mark.parametrize("name", ["other", "../mine", "redaction", "mine.json"])
def test_rules_that_are_not_there_are_refused_with_those_that_are(tmp_path, name):
    for there in ("mine", "yours", "redaction"):
        (tmp_path / f"{there}.json").write_text("{}")
    assert available(tmp_path) == ["mine", "yours"]
    with pytest.raises(InvalidInput, match="mine, yours"):
        load_rules(name, tmp_path)
    with pytest.raises(InvalidInput, match="no rules of its own"):
        load_rules(name, None)
