"""The layouts of other projects: their exact keys and types, and the numbers of the records in them."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load

from mistudio_core.errors import Unsupported
from mistudio_find.exports import delphi_cache
from mistudio_find.exports.analysis import Analysis
from mistudio_find.exports.making import make
from mistudio_torch.codes import CodesReader
from tests.unit.find.records import Files, analysis_of, dead, hostile, record, write_features
from tests.unit.find.stores import D_SAE, write_store

RECORDS = [record(3), hostile(1), record(0), dead(2)]
BASE = "v1/Some-Model_7B/3-mistudio-res-4"
T, N, B, W, F = str, type(None), bool, int, float
TIMES = {"createdAt": T}
OWNED = TIMES | {"creatorId": T, "visibility": T}
SCHEMA: dict[str, dict[str, Any]] = {
    "release": OWNED
    | {"name": T, "description": T, "creatorName": T, "isNewUi": B, "featured": B, "descriptionShort": (T, N)}
    | {"urls": [T], "creatorEmail": (T, N), "creatorNameShort": (T, N), "defaultSourceSetName": (T, N)}
    | {"defaultSourceId": (T, N), "defaultUmapSourceIds": [T]},
    "model": OWNED
    | {"id": T, "instruct": B, "displayNameShort": T, "displayName": T, "tlensId": (T, N), "dimension": (W, N)}
    | {"defaultSourceSetName": (T, N), "defaultSourceId": (T, N), "inferenceEnabled": B, "layers": W}
    | {"neuronsPerLayer": W, "owner": T, "updatedAt": T, "website": (T, N)},
    "sourceset": OWNED
    | {"modelId": T, "name": T, "hasDashboards": B, "description": T, "type": T, "creatorName": T, "urls": [T]}
    | {"creatorEmail": (T, N), "releaseName": (T, N), "defaultOfModelId": (T, N), "defaultRange": W}
    | {"defaultShowBreaks": B, "showDfa": B, "showCorrelated": B, "showHeadAttribution": B, "showUmap": B},
    "source": OWNED
    | {"id": T, "modelId": T, "setName": T, "hasDashboards": B, "inferenceEnabled": B, "inferenceHosts": [T]}
    | dict.fromkeys(("saelensConfig", "saelensRelease", "saelensSaeId", "hfRepoId", "hfFolderId"), (T, N))
    | {"defaultOfModelId": (T, N), "hasUmap": B, "hasUmapLogSparsity": B, "hasUmapClusters": B, "notes": (T, N)}
    | {"num_prompts": (W, N), "num_tokens_in_prompt": (W, N), "dataset": (T, N)},
}
FIGURES: dict[str, Any] = {
    **{"neuron_alignment_indices": [W], "neuron_alignment_values": [F], "neuron_alignment_l1": [F]},
    **{"correlated_neurons_indices": [W], "correlated_neurons_pearson": [F], "correlated_neurons_l1": [F]},
    **{"correlated_features_indices": [W], "correlated_features_pearson": [F], "correlated_features_l1": [F]},
    **{"neg_str": [T], "neg_values": [F], "pos_str": [T], "pos_values": [F], "frac_nonzero": F},
    **{"freq_hist_data_bar_heights": [(W, F)], "freq_hist_data_bar_values": [F]},
    **{"logits_hist_data_bar_heights": [F], "logits_hist_data_bar_values": [F], "decoder_weights_dist": [F]},
}
PLACE: dict[str, Any] = {"modelId": T, "layer": T, "index": T, "creatorId": T, "createdAt": T}
SCHEMA["features"] = (
    PLACE
    | FIGURES
    | {"maxActApprox": F, "hasVector": B, "vector": [F], "vectorLabel": (T, N), "vectorDefaultSteerStrength": (F, N)}
    | {"hookName": (T, N), "topkCosSimIndices": [W], "topkCosSimValues": [F], "sourceSetName": (T, N)}
)
SCHEMA["activations"] = (
    PLACE
    | {"id": T, "tokens": [T], "values": [(W, F)], "maxValue": (W, F), "maxValueTokenIndex": W, "minValue": (W, F)}
    | {"dataSource": (T, N), "dataIndex": (T, N), "dfaValues": [F], "dfaTargetIndex": (W, N), "dfaMaxValue": (F, N)}
    | {"lossValues": [F], "logitContributions": (T, N), "binMin": (F, N), "binMax": (F, N), "binContains": (F, N)}
    | {"qualifyingTokenIndex": (W, N), "zIndices": ([W], N), "zValues": ([F], N)}
)
DASHBOARD = (
    FIGURES
    | {"feature_index": W, "n_prompts_total": W, "n_tokens_in_prompt": W, "dataset": T}
    | {"activations": [{"bin_min": F, "bin_max": F, "bin_contains": F, "tokens": [T], "values": [(W, F)]}
                       | {"qualifying_token_index": W}]}
)  # fmt: skip


def check(value: Any, schema: Any, where: str = "") -> None:
    """Exact keys and exact types."""
    if isinstance(schema, dict):
        assert set(value) == set(schema), where
        for key, inner in schema.items():
            check(value[key], inner, f"{where}.{key}")
    elif isinstance(schema, list):
        assert isinstance(value, list), where
        for item in value:
            check(item, schema[0], f"{where}[]")
    else:
        kinds = tuple(list if isinstance(s, list) else s for s in (schema if isinstance(schema, tuple) else (schema,)))
        assert type(value) in kinds, f"{where}: {value!r}"


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return analysis_of(tmp_path_factory.mktemp("features"), RECORDS)


@pytest.fixture(scope="module")
def tree(analysis: Analysis, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """Rows of each file of Neuronpedia's tree."""
    path = tmp_path_factory.mktemp("tree") / "neuronpedia.tar"
    make(analysis, {"neuronpedia": path})
    rows = {}
    with tarfile.open(path) as tar:
        for member in tar:
            data = tar.extractfile(member).read()
            data = gzip.decompress(data) if member.name.endswith(".gz") else data
            rows[member.name] = [json.loads(line) for line in data.splitlines()]
    return rows


def test_neuronpedias_tree_has_its_exact_files_keys_and_types(tree):
    names = [f"{name}.jsonl" for name in ("release", "model", "sourceset", "source")]
    names += ["features/batch-0.jsonl.gz", "activations/batch-0.jsonl.gz"]
    assert sorted(tree) == sorted(f"{BASE}/{name}" for name in names)
    for path, rows in tree.items():
        kind = path.removeprefix(f"{BASE}/").split("/")[0].removesuffix(".jsonl")
        assert rows
        for row in rows:
            check(row, SCHEMA[kind], kind)


def test_neuronpedias_tree_has_the_numbers_of_the_records(tree):
    features = {row["index"]: row for row in tree[f"{BASE}/features/batch-0.jsonl.gz"]}
    assert list(features) == ["3", "1", "0", "2"]
    given, found = RECORDS[0], features["3"]
    statistics = given["activation_statistics"]
    assert found["frac_nonzero"] == statistics["frequency"]
    assert found["freq_hist_data_bar_heights"] == statistics["histogram_counts"]
    assert found["pos_str"] == [t["token"] for t in given["promoted_tokens"]]
    assert found["neg_values"] == [t["effect"] for t in given["suppressed_tokens"]]
    assert found["topkCosSimValues"] == [n["similarity"] for n in given["nearest_by_decoder"]]
    shown = [a for a in tree[f"{BASE}/activations/batch-0.jsonl.gz"] if a["index"] == "3"]
    texts = given["top_activations"] + given["quantile_activations"]
    assert [(a["tokens"], a["values"], a["maxValue"]) for a in shown] == [
        (t["tokens"], t["activations"], t["activation_strength"]) for t in texts
    ]
    assert len({a["id"] for rows in tree.values() for a in rows if "tokens" in a}) == 20 + 5 + 4 + 25
    assert {a["binMin"] for a in shown[:20]} == {-1.0}
    for row in tree[f"{BASE}/source.jsonl"] + tree[f"{BASE}/model.jsonl"]:
        assert row["createdAt"] == "2025-07-26T15:13:21"


def test_saedashboards_json_has_its_exact_keys_and_types(analysis: Analysis, tmp_path: Path):
    make(analysis, {"saedashboard": tmp_path / "s.json"})
    found = json.loads((tmp_path / "s.json").read_text())
    features = found.pop("features")
    assert found == {"model_id": "Some-Model_7B", "layer": 3, "sae_set": "mistudio-res-4", "sae_id_suffix": None}
    assert [f["feature_index"] for f in features] == [3, 1, 0, 2]
    for feature in features:
        check(feature, DASHBOARD)
    texts = RECORDS[0]["top_activations"] + RECORDS[0]["quantile_activations"]
    assert [a["values"] for a in features[0]["activations"]] == [t["activations"] for t in texts]
    edges, last = RECORDS[0]["activation_statistics"]["histogram_edges"], features[0]["activations"][-1]
    if last["values"][last["qualifying_token_index"]] <= edges[-1]:
        assert last["bin_min"] in edges and 0 < last["bin_contains"] < 1


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("store") / "codes")


def test_delphis_cache_holds_every_activation(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(delphi_cache, "CONTEXT", 64)
    features = Files(write_features(tmp_path / "f", RECORDS))
    make(Analysis(features, Files(store)), {"delphi": tmp_path / "delphi.tar"})
    codes = CodesReader.from_folder(store)
    dense = np.zeros((codes.n_tokens, D_SAE), np.float16)
    for feature in range(D_SAE):
        dense[codes.feature(feature).positions, feature] = codes.feature(feature).values
    found = np.zeros((-(-codes.n_tokens // 64) * 64, D_SAE), np.float16)
    with tarfile.open(tmp_path / "delphi.tar") as tar:
        names = tar.getnames()
        parts = {Path(n).stem: load(tar.extractfile(n).read()) for n in names if n.endswith(".safetensors")}
        config = json.load(io.TextIOWrapper(tar.extractfile(names[0])))
    hook = Path(names[0]).parent.name
    assert names[0] == f"latents/{hook}/config.json"
    assert sorted(parts) == ["0_0", "1_2", "3_3", "4_5", "6_7"]  # linspace(0, 8, 6), the ends inclusive
    for name, part in parts.items():
        start = int(name.split("_")[0])
        assert (part["locations"].dtype, part["activations"].dtype) == (np.uint16, np.float16)
        sequence, position, latent = part["locations"].astype(int).T
        found[sequence * 64 + position, latent + start] = part["activations"]
        ids = np.concatenate([codes.token_ids(d) for d in range(codes.n_documents)])
        assert (part["tokens"].reshape(-1)[: len(ids)] == ids).all() and part["tokens"].shape[1] == 64
    assert (found[: len(dense)] == dense).all() and not found[len(dense) :].any()
    assert (config["cache_ctx_len"], config["n_splits"], config["n_tokens"]) == (64, 5, codes.n_tokens)


def test_delphis_cache_needs_the_activations(analysis: Analysis, tmp_path: Path):
    with pytest.raises(Unsupported, match="delphi"):
        make(analysis, {"delphi": tmp_path / "d.tar"})
