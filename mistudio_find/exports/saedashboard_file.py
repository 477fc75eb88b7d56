"""SAEDashboard's JSON of features, as Neuronpedia's converters take it: one batch with every feature.

Keys are those of sae_dashboard/neuronpedia/neuronpedia_dashboard.py; see docs/exports.md for what each holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mistudio_find.exports.analysis import Analysis
from mistudio_find.exports.dashboards import Dashboard, activations, dashboard, figures


def feature(record: Mapping[str, Any], names: Dashboard) -> dict[str, Any]:
    """One entry of `features`."""
    return {
        "feature_index": record["feature_id"],
        **figures(record),
        "n_prompts_total": names.prompts,
        "n_tokens_in_prompt": names.tokens_in_prompt,
        "dataset": names.dataset,
        "activations": list(activations(record)),
    }


def write(analysis: Analysis, path: Path) -> None:
    """Writes the file, feature by feature. Raises Corrupt; OSError passes."""
    import orjson

    names = dashboard(analysis)
    head = {"model_id": names.model_id, "layer": names.layer, "sae_set": names.set_name, "sae_id_suffix": None}
    with path.open("wb") as handle:
        handle.write(orjson.dumps(head)[:-1] + b',"features":[')
        between = b"\n"
        for record in analysis.records():
            handle.write(between + orjson.dumps(feature(record, names)))
            between = b",\n"
        handle.write(b"\n]}\n")
