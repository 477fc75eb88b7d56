"""Nearest features, the map and promoted tokens: against readable twins, and against the models themselves."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from mistudio_core.artifacts import ArtifactReader
from mistudio_core.errors import Corrupt, MistudioError, Unsupported
from mistudio_core.jobs.local import LocalContext
from mistudio_find import coactivation, job, layout, weights
from mistudio_find.config import FindConfig
from mistudio_find.logits import logit_effects
from mistudio_find.pages import FeaturePages
from mistudio_find.relations import relations
from mistudio_find.unembedding import open_unembedding
from mistudio_torch.codes import CodesReader
from tests.support import tinymodels
from tests.unit.find.saes import write_decoder
from tests.unit.find.stores import D_SAE, DEAD, RANDOM, TOPIC, WORD, Folder, write_store

HOOK = "blocks.1.hook_resid_post"


def quiet(_share: float) -> None:
    return


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return write_store(tmp_path_factory.mktemp("relations") / "codes")


@pytest.fixture
def rows() -> np.ndarray:
    """Directions in 40 bundles of 20, and one of length 0."""
    rng = np.random.default_rng(5)
    centres = rng.standard_normal((40, 24))
    found = centres[np.arange(800) % 40] + 0.4 * rng.standard_normal((800, 24))
    found[3] = 0
    return found.astype(np.float32)


def decoder_of(folder: Path, rows: np.ndarray) -> weights.Decoder:
    return weights.open_decoder(Folder(write_decoder(folder, rows)))


@pytest.mark.parametrize("block", [64, 4096])
def test_nearest_directions_are_those_of_all_cosines(tmp_path, rows, monkeypatch, block):
    decoder = decoder_of(tmp_path / "sae", rows)
    monkeypatch.setattr(weights.Decoder, "blocks", lambda self: iter(_ranges(len(self.rows_FD), block)))
    found = weights.nearest_directions(decoder, 10, quiet)
    unit = rows / np.maximum(1e-9, np.linalg.norm(rows, axis=1, keepdims=True))
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -3)
    cosines[3], cosines[:, 3] = -3, -3
    for feature in (0, 1, 63, 64, 799):
        best = np.argsort(-cosines[feature], kind="stable")[:10]
        assert found.ids_FK[feature].tolist() == best.tolist()
        np.testing.assert_allclose(found.values_FK[feature], cosines[feature][best], atol=1e-5)
    assert found.ids_FK[3].tolist() == [-1] * 10 and 3 not in found.ids_FK
    np.testing.assert_allclose(decoder.norms_F, np.linalg.norm(rows.astype(float), axis=1), rtol=1e-6)


def _ranges(count: int, block: int) -> list[tuple[int, int]]:
    return [(first, min(first + block, count)) for first in range(0, count, block)]


def test_the_map_keeps_neighbours_together_and_is_the_same_again(tmp_path, rows):
    decoder = decoder_of(tmp_path / "sae", rows)
    nearest = weights.nearest_directions(decoder, layout.NEIGHBOURS, quiet)
    where = layout.lay_out(decoder, nearest, seed=1, tick=quiet)
    assert where.min() >= 0 and where.max() <= 1 and np.ptp(where, axis=0).max() == pytest.approx(1)
    away = np.linalg.norm(where[:, None] - where[None], axis=2)
    np.fill_diagonal(away, np.inf)
    bundle = np.arange(len(rows)) % 40
    same = bundle[np.argsort(away, axis=1)[:, :10]] == bundle[:, None]
    assert np.delete(same, 3, axis=0).mean() > 0.9
    assert (layout.lay_out(decoder, nearest, seed=1, tick=quiet) == where).all()
    assert (layout.lay_out(decoder, nearest, seed=2, tick=quiet) != where).any()


def dense(codes: CodesReader, documents: np.ndarray) -> np.ndarray:
    """float64 (T, F): activations on the tokens of some documents."""
    tokens = np.concatenate([np.arange(*codes.doc_tokens(int(d))) for d in documents])
    found = np.zeros((codes.n_tokens, codes.d_sae))
    for feature in range(codes.d_sae):
        read = codes.feature(feature)
        found[read.positions, feature] = read.values
    return found[tokens]


@pytest.mark.parametrize("centred", [False, True])
def test_features_that_fire_together_are_those_of_the_dense_figures(store, centred):
    codes = CodesReader.from_folder(store)
    documents = np.arange(0, codes.n_documents, 3)
    sample = coactivation.on_documents(codes, documents)
    found = coactivation.most_alike(sample, sample, 3, 2, centred=centred)
    values = dense(codes, documents)
    values -= values.mean(axis=0) if centred else 0
    norms = np.linalg.norm(values, axis=0)
    figures = np.divide(
        values.T @ values, np.outer(norms, norms), where=np.outer(norms, norms) > 0, out=np.zeros((8, 8))
    )
    np.fill_diagonal(figures, 0)
    for feature in range(D_SAE):
        best = [g for g in np.argsort(-figures[feature], kind="stable") if figures[feature, g] > 1e-9][:3]
        kept = found.ids_FK[feature] >= 0
        assert found.ids_FK[feature][kept].tolist() == best
        np.testing.assert_allclose(found.values_FK[feature][kept], figures[feature, best], rtol=1e-4, atol=1e-6)
    assert (found.ids_FK[DEAD] == -1).all()


def test_the_sample_is_whole_documents_of_a_bounded_number_of_tokens(store, monkeypatch):
    codes = CodesReader.from_folder(store)
    assert len(coactivation.sample_of(codes, 0)) == codes.n_documents
    monkeypatch.setattr(coactivation, "SAMPLE_TOKENS", 1000)
    documents = coactivation.sample_of(codes, 0)
    assert 900 < np.diff(codes.doc_token_offsets)[documents].sum() <= 1000
    assert (np.diff(documents) > 0).all()
    assert coactivation.sample_of(codes, 1).tolist() != documents.tolist()


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "llama", "qwen3", "phi", "gemma2", "gemma3_text"])
def test_effects_are_those_of_the_models_own_norm_and_head(tmp_path, kind):
    """A small step across the last hidden state, orthogonal to it, so that its size stays."""
    folder = tinymodels.make(tmp_path / kind, kind, final_logit_softcapping=None)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    norm = [
        module for name, module in model.named_modules() if name.endswith(("ln_f", "norm", "layer_norm", "layernorm"))
    ]
    norm = norm[-1]
    with torch.no_grad():
        norm.weight.add_(torch.randn(tinymodels.DIM, dtype=torch.float64))
    model.to(torch.float32).save_pretrained(folder)
    model.to(torch.float64)
    direction = np.random.default_rng(0).standard_normal((3, tinymodels.DIM)).astype(np.float32)
    head = open_unembedding(kind, HOOK, tinymodels.DIM, model_root=tmp_path)
    found = logit_effects(decoder_of(tmp_path / "sae", direction), head, quiet)
    count = len(tinymodels.WORDS)  # rows behind the tokenizer's last token belong to no token
    for feature in range(3):
        change = changes(model, norm, direction[feature], centres=head.centres)[:count]
        change -= change.mean()
        ids, low = found.top_FK[feature], found.low_FK[feature]
        for kept, found_values, best in ((ids, found.raised_FK, -change), (low, -found.lowered_FK, change)):
            np.testing.assert_allclose(found_values[feature], change[kept], rtol=2e-3, atol=1e-3)
            np.testing.assert_allclose(np.sort(best[kept]), np.sort(best)[:10], rtol=2e-3, atol=1e-3)
        assert found.of(feature)["promoted_tokens"][0]["token"] == tinymodels.WORDS[ids[0]]


def changes(model: torch.nn.Module, norm: torch.nn.Module, direction: np.ndarray, *, centres: bool) -> np.ndarray:
    """Slope of the logits along a direction at a state that it is orthogonal to, so that its size stays."""
    step = torch.tensor(direction, dtype=torch.float64)
    inside, start = (x - x.mean() if centres else x for x in (step, torch.randn_like(step)))
    start = start - inside * (start @ inside) / (inside @ inside)
    head = model.get_output_embeddings()
    with torch.no_grad():
        ahead, behind = (head(norm(start + sign * 1e-2 * step)) for sign in (1, -1))
        return ((ahead - behind) / 2e-2 * start.square().mean().sqrt()).numpy()


@pytest.mark.parametrize(
    ("change", "hook", "why"),
    [
        ({}, "blocks.1.hook_z", None),
        ({}, "layers.1.mlp.up_proj", "not added to the residual stream"),
        ({}, "", "not added to the residual stream"),
        ({"model_type": "bert"}, HOOK, "does not predict the next token"),
        ({"rms_norm_eps": None}, HOOK, "kind of the last norm"),
        ({"revision": "another"}, HOOK, "others than those"),
        ({"width": 8}, HOOK, "8 values"),
        ({"name": "no/where"}, HOOK, "not on this machine"),
    ],
)
def test_models_without_a_direct_path_are_refused_with_the_reason(tmp_path, monkeypatch, change, hook, why):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tinymodels.make(tmp_path / "llama", "llama")
    config = json.loads((folder / "config.json").read_bytes())
    config |= {key: value for key, value in change.items() if key in config}
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    with pytest.raises(MistudioError if why is None else Unsupported, match=why or "hook_name"):
        open_unembedding(
            change.get("name", "llama"),
            hook,
            change.get("width", 16),
            model_root=tmp_path,
            revision=change.get("revision", ""),
        )


@pytest.mark.parametrize(
    "hook", ["blocks.0.hook_mlp_out", "layers.1", "model.layers.1.mlp", "layers.0.self_attn.o_proj"]
)
def test_what_is_added_to_the_stream_has_a_direct_path(tmp_path, hook):
    tinymodels.shard_by_block(tinymodels.make(tmp_path / "llama", "llama"))
    assert open_unembedding("llama", hook, 16, model_root=tmp_path).shape == (tinymodels.VOCAB, 16)


def analysed(folder: Path, inputs: dict[str, object], **fields: object) -> SimpleNamespace:
    context = LocalContext(folder, inputs=inputs)  # type: ignore[arg-type]
    job.run(FindConfig(training_job_id="train_20250101_000000_00000000", **fields), context)  # type: ignore[arg-type]
    pages = FeaturePages(context.reader("analysis"))
    return SimpleNamespace(features=[pages.feature(i) for i in range(pages.total)], log=context.log_lines)


def test_records_hold_what_the_weights_tell(tmp_path):
    tinymodels.make(tmp_path / "models" / "llama", "llama")
    codes = write_store(tmp_path / "codes", meta={"model_name": "llama"})
    decoder = np.random.default_rng(1).standard_normal((D_SAE, tinymodels.DIM)).astype(np.float32)
    decoder[TOPIC] *= 100
    sae = write_decoder(tmp_path / "sae", decoder, model_name="llama", hook_name=HOOK)
    found = analysed(tmp_path, {"codes": Folder(codes), "sae": Folder(sae)}, model_root=tmp_path / "models")
    word = found.features[WORD]
    assert len(word["nearest_by_decoder"]) == D_SAE - 1 and len(word["promoted_tokens"]) == 10
    assert 0 <= word["map_x"] <= 1 and 0 <= word["map_y"] <= 1
    assert found.features[TOPIC]["importance"] == 1.0
    assert list(word)[-1] == "judge_texts" and found.log == []


@pytest.mark.parametrize(
    ("damage", "said"), [("none", "cannot be opened"), ("cut", "cannot be read"), ("wide", "belong")]
)
def test_weights_that_cannot_be_read_cost_nothing_else(tmp_path, store, damage, said):
    rows = np.ones((D_SAE + (damage == "wide"), 4), np.float32)
    folder = write_decoder(tmp_path / "sae", rows)
    if damage == "cut":
        (folder / "sae_weights.safetensors").write_bytes(b"no tensors")
    sae = {} if damage == "none" else {"sae": Folder(folder)}
    found = analysed(tmp_path, {"codes": Folder(store), **sae})
    assert any(level == "warning" and said in line for level, line in found.log)
    topic = found.features[TOPIC]
    assert "nearest_by_decoder" not in topic and "map_x" not in topic and "promoted_tokens" not in topic
    assert topic["nearest_by_activation"][0]["feature_id"] in (RANDOM, 4)
    assert topic["pattern_keywords"] and 0 < topic["importance"] <= 1


def test_a_decoder_with_values_that_are_no_numbers_is_corrupt(tmp_path):
    rows = np.ones((4, 4), np.float32)
    rows[2, 2] = np.nan
    with pytest.raises(Corrupt, match="no numbers"):
        decoder_of(tmp_path, rows)


def test_a_damaged_artifact_is_told_apart(tmp_path, store):
    writer = LocalContext(tmp_path / "store").store.stage("/data/models/x/sae", "sae")
    write_decoder(writer.folder, np.ones((D_SAE, 4), np.float32))
    reader: ArtifactReader = LocalContext(tmp_path / "store").store.open(writer.seal())
    path = reader.path("sae_weights.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    log: list[str] = []
    fresh = LocalContext(tmp_path / "store").store.open(reader.record)
    options = {"model_root": None, "seed": 0, "parts": 1, "tick": quiet, "log": log.append}
    found = relations(CodesReader.from_folder(store), lambda: fresh, **options)
    assert found.decoder_norms is None and "damaged" in log[0]
