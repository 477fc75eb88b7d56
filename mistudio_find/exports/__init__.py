"""The forms in which a completed analysis is downloaded: one file and one line here each.

Every form is written record by record from the `features` artifact, so that all hold the same numbers and
none needs the memory of all records. What torch, pyarrow or seconds of work would cost the control process
happens in a process of its own (`__main__`), which `desk` starts and whose file it keeps.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportFormat:
    """One form."""

    name: str
    """Its name in the contract and on the command line."""
    filename: str
    """What the file is called."""
    module: str
    """Module of this package whose `write(analysis, path)` makes the file."""
    media_type: str
    """Its media type."""
    written_by_find: bool = False
    """Whether Find wrote the file beside its records; else it is made when it is first asked for."""
    needs_codes: bool = False
    """Whether it holds activations beyond the evidence, which the `codes` artifact has."""
    in_bundle: bool = False
    """Whether the ZIP of everything holds it."""


_FORMATS = (
    ExportFormat(
        name="json",
        filename="feature_analysis.json",
        module="json_file",
        media_type="application/json",
        written_by_find=True,
        in_bundle=True,
    ),
    ExportFormat(
        name="csv",
        filename="feature_analysis.csv",
        module="csv_file",
        media_type="text/csv; charset=utf-8",
        written_by_find=True,
        in_bundle=True,
    ),
    ExportFormat(
        name="xml", filename="feature_analysis.xml", module="xml_file", media_type="application/xml", in_bundle=True
    ),
    ExportFormat(
        name="pytorch",
        filename="feature_analysis.pt",
        module="pytorch_file",
        media_type="application/octet-stream",
        in_bundle=True,
    ),
    ExportFormat(
        name="txt",
        filename="feature_analysis.txt",
        module="txt_file",
        media_type="text/plain; charset=utf-8",
        in_bundle=True,
    ),
    ExportFormat(
        name="parquet",
        filename="feature_analysis.parquet",
        module="parquet_file",
        media_type="application/vnd.apache.parquet",
        in_bundle=True,
    ),
    ExportFormat(
        name="safetensors",
        filename="feature_analysis.safetensors",
        module="safetensors_file",
        media_type="application/octet-stream",
        in_bundle=True,
    ),
    ExportFormat(
        name="neuronpedia", filename="neuronpedia.tar", module="neuronpedia_tree", media_type="application/x-tar"
    ),
    ExportFormat(
        name="delphi",
        filename="delphi.tar",
        module="delphi_cache",
        media_type="application/x-tar",
        needs_codes=True,
    ),
    ExportFormat(name="zip", filename="feature_analysis.zip", module="zip_file", media_type="application/zip"),
    ExportFormat(
        name="saedashboard", filename="saedashboard.json", module="saedashboard_file", media_type="application/json"
    ),
)
FORMATS = {form.name: form for form in _FORMATS}
"""Every form by name, in the contract's order."""
