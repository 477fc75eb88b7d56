"""Neuronpedia's export tree, in a tar file: what its import reads, under `v1/<model>/<layer>-<set>/`.

Keys, types and defaults are those of neuronpedia_utils.db_models. Explanations come from Explain and are not in
it. Ids are digests of what they name and times are the job's: the same analysis gives the same bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

from mistudio_core.errors import Corrupt
from mistudio_find.exports.analysis import Analysis
from mistudio_find.exports.dashboards import Dashboard, activations, dashboard, figures
from mistudio_find.exports.tarring import Tar

FEATURES_A_BATCH = 1024
"""Features in each `batch-N.jsonl.gz`."""
CREATOR = "mistudio"
"""Who made it, as Neuronpedia's columns want a creator; its import may replace it."""
_GZIP_LEVEL = 5


def write(analysis: Analysis, path: Path) -> None:
    """Writes the file. Raises Corrupt; OSError passes."""
    names, time = dashboard(analysis), analysis.created_at.strftime("%Y-%m-%dT%H:%M:%S")
    root = f"v1/{names.model_id}/{names.source_id}"
    with Tar(path) as tar, tempfile.TemporaryDirectory(prefix=".batches", dir=path.parent) as scratch:
        for name, row in about(names, analysis.metadata, time).items():
            tar.add(f"{root}/{name}.jsonl", _line(row))
        records = iter(analysis.records())
        for number in range(max(1, -(-analysis.total // FEATURES_A_BATCH))):
            batch = islice(records, FEATURES_A_BATCH)
            _write_batch(tar, root, Path(scratch), number, batch, names, time)
        for _ in records:
            raise Corrupt("The records and the index of the analysis disagree. Run the Find job again.")


def about(names: Dashboard, metadata: Mapping[str, Any], time: str) -> dict[str, dict[str, Any]]:
    """The rows of release, model, sourceset and source."""
    owned = {"creatorId": CREATOR, "visibility": "PUBLIC", "createdAt": time}
    by: dict[str, Any] = {"creatorName": CREATOR, "creatorEmail": None, "urls": []}
    release = {
        **{"name": names.set_name, "description": f"miStudio features of {names.model_id}", **owned, **by},
        **{"isNewUi": False, "featured": False, "descriptionShort": names.set_name, "creatorNameShort": CREATOR},
        **{"defaultSourceSetName": names.set_name, "defaultSourceId": names.source_id, "defaultUmapSourceIds": []},
    }
    model = {
        **{"id": names.model_id, "instruct": names.model_id.endswith("-it"), **owned},
        **{"displayNameShort": names.model_id, "displayName": str(metadata.get("model_name", names.model_id))},
        **{"tlensId": None, "dimension": None, "defaultSourceSetName": names.set_name},
        **{"defaultSourceId": names.source_id, "inferenceEnabled": False, "layers": 0, "neuronsPerLayer": 0},
        **{"owner": "", "updatedAt": time, "website": None},
    }
    sourceset = {
        **{"modelId": names.model_id, "name": names.set_name, "hasDashboards": True, **owned, **by},
        **{"description": f"{names.hook_name} - {names.width}", "type": "", "releaseName": names.set_name},
        **{"defaultOfModelId": None, "defaultRange": 1, "defaultShowBreaks": True, "showDfa": False},
        **{"showCorrelated": False, "showHeadAttribution": False, "showUmap": False},
    }
    source: dict[str, Any] = {
        **{"id": names.source_id, "modelId": names.model_id, "setName": names.set_name, **owned},
        **{"hasDashboards": True, "inferenceEnabled": False, "inferenceHosts": [], "saelensConfig": None},
        **{"saelensRelease": None, "saelensSaeId": None, "hfRepoId": None, "hfFolderId": None},
        **{"defaultOfModelId": None, "hasUmap": False, "hasUmapLogSparsity": False, "hasUmapClusters": False},
        **{"num_prompts": names.prompts, "num_tokens_in_prompt": names.tokens_in_prompt},
        **{"dataset": names.dataset, "notes": f"miStudio job {metadata.get('job_id', '')}"},
    }
    return {"release": release, "model": model, "sourceset": sourceset, "source": source}


def feature_row(record: Mapping[str, Any], names: Dashboard, time: str) -> dict[str, Any]:
    """A row of features/batch-N."""
    nearest = record["nearest_by_decoder"]
    return {
        **_place(record, names, time),
        "maxActApprox": float(record["activation_statistics"]["max"]),
        **{"hasVector": False, "vector": [], "vectorLabel": None, "vectorDefaultSteerStrength": None},
        "hookName": names.hook_name or None,
        "topkCosSimIndices": [n["feature_id"] for n in nearest],
        "topkCosSimValues": [n["similarity"] for n in nearest],
        **figures(record),
        "sourceSetName": names.set_name,
    }


def activation_rows(record: Mapping[str, Any], names: Dashboard, time: str) -> Iterable[dict[str, Any]]:
    """The rows of activations/batch-N for one feature."""
    place = _place(record, names, time)
    for number, shown in enumerate(activations(record)):
        values = shown["values"]
        peak = shown["qualifying_token_index"]
        identity = f"{names.model_id}/{names.source_id}/{record['feature_id']}/{number}/{record['sae_sha256']}"
        yield {
            **place,
            "id": "c" + hashlib.sha256(identity.encode()).hexdigest()[:24],
            **{"tokens": shown["tokens"], "values": values},
            **{"maxValue": values[peak], "maxValueTokenIndex": peak, "minValue": min(values)},
            **{"dataSource": names.dataset, "dataIndex": None, "dfaValues": [], "dfaTargetIndex": None},
            **{"dfaMaxValue": None, "lossValues": [], "logitContributions": None},
            **{"binMin": shown["bin_min"], "binMax": shown["bin_max"], "binContains": shown["bin_contains"]},
            **{"qualifyingTokenIndex": peak, "zIndices": None, "zValues": None},
        }


def _place(record: Mapping[str, Any], names: Dashboard, time: str) -> dict[str, Any]:
    index = str(record["feature_id"])
    return {
        **{"modelId": names.model_id, "layer": names.source_id, "index": index},
        **{"creatorId": CREATOR, "createdAt": time},
    }


def _write_batch(
    tar: Tar,
    root: str,
    scratch: Path,
    number: int,
    batch: Iterable[Mapping[str, Any]],
    names: Dashboard,
    time: str,
) -> None:
    features, shown = scratch / "features", scratch / "activations"
    with ExitStack() as stack:
        feature_lines = stack.enter_context(_gzip(stack, features))
        activation_lines = stack.enter_context(_gzip(stack, shown))
        for record in batch:
            feature_lines.write(_line(feature_row(record, names, time)))
            activation_lines.writelines(_line(row) for row in activation_rows(record, names, time))
    tar.move(f"{root}/features/batch-{number}.jsonl.gz", features)
    tar.move(f"{root}/activations/batch-{number}.jsonl.gz", shown)


def _gzip(stack: ExitStack, path: Path) -> gzip.GzipFile:
    raw = stack.enter_context(path.open("wb"))
    return gzip.GzipFile("", "wb", _GZIP_LEVEL, raw, mtime=0)


def _line(row: Mapping[str, Any]) -> bytes:
    import orjson

    return orjson.dumps(row) + b"\n"
