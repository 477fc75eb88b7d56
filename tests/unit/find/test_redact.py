"""Redaction: rules on whole documents, tokens that stay aligned, and no byte of what is hidden in any file."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from mistudio_core.errors import InvalidInput, Unsupported
from mistudio_core.jobs.local import LocalContext
from mistudio_explain.evidence import FindEvidence
from mistudio_find import job, redact
from mistudio_find.config import FindConfig
from mistudio_find.pages import FeaturePages
from tests.unit.find.stores import WORD, Folder, texts, write_store

CANARIES = {
    "email": ("zqjane.doe+box@mail.zqcorp.example", "[email]"),
    "phone_international": ("+49 30 9018 20477", "[phone]"),
    "phone_north_america": ("(212) 555-0187", "[phone]"),
    "phone_national": ("020 7946 0958", "[phone]"),
    "phone_named": ("5550123", "[phone]"),
    "ip_v4": ("203.0.113.77", "[ip]"),
    "ip_v6": ("2001:db8::ff00:42:8329", "[ip]"),
    "mac_address": ("00:1b:44:11:3a:b7", "[mac]"),
    "iban": ("DE89 3704 0044 0532 0130 00", "[iban]"),
    "credit_card": ("4111 1111 1111 1111", "[card]"),
    "url_credentials": ("https://zqbob:zqpass@zqhost.example/path", "[url]"),
    "url_secret": ("zqsecretvalue77", "[secret]"),
    "known_token": ("ghp_zqABCDEFGHIJKLMNOPQRSTUVWXYZ0123", "[secret]"),
    "json_web_token": ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N", "[secret]"),
    "authorization": ("zqdXNlcjpwYXNzd29yZDEyMw==", "[secret]"),
    "assigned_secret": ("zqhunter22", "[secret]"),
    "private_key": ("-----BEGIN RSA PRIVATE KEY-----\nzqMIIEowIBAAKC\n-----END RSA PRIVATE KEY-----", "[secret]"),
    "us_ssn": ("536-90-4399", "[id]"),
    "gb_national_insurance": ("AB 12 34 56 C", "[id]"),
    "gb_nhs": ("943 476 5870", "[id]"),
    "fr_nir": ("2 95 10 99 126 111 93", "[id]"),
    "es_dni": ("54362315K", "[id]"),
    "es_nie": ("X2482300W", "[id]"),
    "it_codice_fiscale": ("RCCMNL83S18D969H", "[id]"),
    "de_tax_id": ("36 574 261 809", "[id]"),
    "nl_bsn": ("111222333", "[id]"),
    "pl_pesel": ("44051401359", "[id]"),
    "be_national_number": ("85.07.30-033.28", "[id]"),
    "se_personnummer": ("880320-0016", "[id]"),
    "dk_cpr": ("211062-5629", "[id]"),
    "fi_hetu": ("131052-308T", "[id]"),
    "ch_ahv": ("756.9217.0769.85", "[id]"),
    "br_cpf": ("390.533.447-05", "[id]"),
    "ca_sin": ("123-456-782", "[id]"),
    "in_aadhaar": ("2341 2341 2346", "[id]"),
    "in_pan": ("ACUPA7085R", "[id]"),
    "cn_resident_id": ("360426199101010071", "[id]"),
    "kr_rrn": ("971013-9019902", "[id]"),
    "mx_curp": ("BOXW310820HNERXN09", "[id]"),
    "za_id": ("7503305044089", "[id]"),
}
BEFORE = {
    "phone_named": "phone: ",
    "url_secret": "https://x.example/a?api_key=",
    "authorization": "Authorization: Basic ",
    "assigned_secret": "password = ",
    "nl_bsn": "BSN ",
}


def seeded(name: str) -> str:
    return BEFORE.get(name, "") + CANARIES[name][0]


def spans_of(text: str) -> np.ndarray:
    return np.array([m.span() for m in re.finditer(r"\w+|[^\w\s]", text)], np.int32).reshape(-1, 2)


RULES = redact.load()


def test_there_is_a_canary_for_every_rule():
    assert {rule.name for rule in RULES.rules} == set(CANARIES)


@pytest.mark.parametrize("name", CANARIES)
def test_a_rule_finds_its_own_and_leaves_what_stands_around(name: str):
    canary, label = CANARIES[name]
    text = f"Before it, {seeded(name)} and after."
    (found,) = RULES.matches(text)
    assert text[found[0] : found[1]].find(canary) >= 0 and found[2] == label
    clean = RULES.text(text)
    assert canary not in clean and label in clean and clean.startswith("Before it, ") and clean.endswith(" and after.")


@pytest.mark.parametrize(
    "text",
    [
        "It was at 12:34:56 on 01-02-2024, 2021-05-06 07:08:09, for 1,000,000.00 or 0.5.",
        "See std::vector, a::b and Foo::Bar; version 1.2.3 of 1999.",
        "Call me later about the password policy, basic misunderstanding and secret santa.",
        "The numbers 1234 5678 and 123456789 and 4111 1111 1111 1112 say nothing.",
        "mail at example dot com, @handle, https://example.com/path?page=2",
    ],
)
def test_other_text_stays(text: str):
    assert RULES.matches(text) == []


def test_numbers_side_by_side_are_all_found():
    text = "4111 1111 1111 1111 5500 0000 0000 0004 and 7 DE89 3704 0044 0532 0130 00 IS MINE"
    assert RULES.text(text) == "[card] [card] and 7 [iban] IS MINE"


def test_the_first_token_of_a_match_has_the_label_and_the_rest_are_empty():
    text = "write to zqjane@zqcorp.example, now"
    clean, spans = RULES.document(text, spans_of(text))
    assert clean == "write to [email], now"
    assert [clean[a:b] for a, b in spans] == ["write", "to", "[email]", "", "", "", "", ",", "now"]
    half = np.array([(0, 11), (11, 20), (20, 35)], np.int32)  # tokens that cross both borders of the match
    clean, spans = RULES.document(text, half)
    assert [clean[a:b] for a, b in spans] == ["write to [email]", "", ", now"]


def test_overlapping_matches_leave_nothing_between_them():
    rules = redact.parse(
        json.dumps(
            {
                "version": "own/1",
                "rules": [
                    {"name": "a", "label": "[a]", "pattern": "bcd"},
                    {"name": "b", "label": "[b]", "pattern": "abc|defg"},
                ],
            }
        )
    )
    assert rules.text("xabcdefgx bcd") == "x[a]x [a]"


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"name": "r", "label": "[r]", "pattern": "("}, "r"),
        ({"name": "r", "label": "[r]"}, "pattern"),
        ({"name": "r", "label": "", "pattern": "x"}, "label"),
        ({"name": "r", "label": "[r]", "pattern": "x", "check": "os"}, "stdnum"),
        ({"name": "r", "label": "[r]", "pattern": "x", "check": "stdnum.nothing"}, "nothing"),
        ({"name": "r", "label": "[r]", "pattern": "x", "group": "g"}, "group"),
        ({"name": "r", "label": "[r]", "pattern": "x", "more": 1}, "more"),
    ],
)
def test_rules_that_cannot_be_used_say_which_and_why(rule, said):
    with pytest.raises(InvalidInput, match=said):
        redact.parse(json.dumps({"version": "v", "rules": [rule]}))


def test_own_rules_replace_the_built_in_ones_and_are_recorded(tmp_path):
    assert redact.load(tmp_path).version == "redaction/1"
    body = {"version": "ours/2", "rules": [{"name": "staff", "label": "[staff]", "pattern": "E\\d{5}"}]}
    (tmp_path / redact.RULES_FILE).write_text(json.dumps(body))
    own = redact.load(tmp_path)
    assert own.text("E12345 wrote a@b.example") == "[staff] wrote a@b.example"
    assert re.fullmatch(r"ours/2\+[0-9a-f]{12}", own.version)


def documents() -> list[tuple[str, str]]:
    """The planted corpus, a canary in the middle of every text, next to words that features fire on."""
    names = list(CANARIES)
    found = []
    for number, (label, text) in enumerate(texts(160)):
        words = text.split()
        words[15:15] = ["token", seeded(names[number % len(names)]), "tokens"]
        found.append((f"{label} zqlabel@zqcorp.example", " ".join(words)))
    return found


@pytest.fixture(scope="module")
def analysed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("redacted")
    store = write_store(folder / "codes", documents())
    found = {}
    for setting in ("redacted", "none"):
        context = LocalContext(folder / setting, inputs={"codes": Folder(store)})
        result = job.run(FindConfig(training_job_id="t", evidence_text=setting), context)
        found[setting] = result, context
    return found


def bytes_of(context: LocalContext) -> dict[str, bytes]:
    """Every file of the artifact, and what the job said."""
    reader = context.reader("analysis")
    said = {"log": repr(context.log_lines).encode(), "progress": repr(context.progress_reports).encode()}
    return said | {file.name: reader.read_bytes(file.name) for file in reader.record.files}


def test_no_canary_is_in_any_file_when_redacted(analysed):
    files = bytes_of(analysed["redacted"][1])
    assert "vocabulary.json" in files and b"[email]" in files["features.jsonl"]
    secrets = {c for name, (canary, _) in CANARIES.items() for c in (canary, json.dumps(canary)[1:-1])}
    for name, body in files.items():
        low = body.lower()
        assert b"zq" not in low, name
        for secret in secrets:
            assert secret.lower().encode() not in low, (name, secret)


def test_tokens_and_activations_stay_aligned_when_redacted(analysed):
    pages = FeaturePages(analysed["redacted"][1].reader("analysis"))
    tops = pages.feature(WORD)["top_activations"]
    assert any("[" in top["text"] for top in tops)
    for top in tops:
        assert "".join(top["tokens"]) == top["text"] and len(top["tokens"]) == len(top["activations"])
        strongest = top["activations"].index(max(top["activations"]))
        assert top["tokens"][strongest].strip().startswith("token")
        assert top["context"].split()[1] == "[email]"
    versions = json.loads(analysed["redacted"][1].reader("analysis").read_bytes("quality_metrics.json"))["versions"]
    assert versions["redaction"] == "redaction/1"


def test_no_word_of_the_corpus_is_in_any_file_without_text(analysed):
    result, context = analysed["none"]
    files = bytes_of(context)
    assert "vocabulary.json" not in files and result.live_features == analysed["redacted"][0].live_features
    words = {w.casefold() for _, text in documents() for w in re.findall(r"[A-Za-z]{5,}", text)} - {"token", "tokens"}
    known = re.findall(r'"([A-Za-z_]+)":', b"".join(files.values()).decode("latin1"))
    words -= {part for key in known for part in key.split("_")}
    for name, body in files.items():
        assert not words & set(re.findall(r"[a-z]+", body.decode("latin1").lower())), name
        assert b"zq" not in body.lower(), name
    record = FeaturePages(context.reader("analysis")).feature(WORD)
    top = record["top_activations"][0]
    assert top["text"] == "" and set(top["tokens"]) == {""} and len(top["tokens"]) == len(top["activations"])
    assert record["pattern_keywords"] == record["contrast_texts"] == record["judge_texts"] == []
    assert record["driving_tokens"] == [] and record["associations"] == [] and record["coherence_score"] > 0.1


def test_explaining_an_analysis_without_text_is_refused_with_what_to_do(analysed):
    with pytest.raises(Unsupported, match="evidence_text full or redacted"):
        FindEvidence(analysed["none"][1].reader("analysis"))
    assert FindEvidence(analysed["redacted"][1].reader("analysis")).total == 8


def test_a_string_in_a_field_that_is_not_known_goes_too():
    record = {"feature_id": 3, "quality_level": "good", "novel": {"words": ["zq"], "n": 2}, "more": "zq"}
    assert redact.without_text(record) == {
        "feature_id": 3,
        "quality_level": "good",
        "novel": {"words": [], "n": 2},
        "more": "",
    }
