"""`mistudio audit`: checks that an audit report is whole, without the service, or against it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mistudio_cli import options
from mistudio_core.errors import Corrupt

if TYPE_CHECKING:
    from mistudio_core.seal import Verdict

app = typer.Typer(help="Check audit reports.", no_args_is_help=True)


@app.command("verify")
def verify(
    file: Annotated[
        Path,
        typer.Argument(help="An audit report: JSON, HTML or PDF.", exists=True, dir_okay=False, show_default=False),
    ],
    job_id: Annotated[
        str,
        typer.Option(
            "--job",
            help="Explain job: compares with the report that the service gives now; a review since then changes it.",
            show_default=False,
        ),
    ] = "",
    home: options.Home = None,
    address: options.Address = None,
    as_json: options.Json = False,
) -> None:
    """Check the digest of an audit report."""
    from mistudio_cli.output import emit, facts_table, show
    from mistudio_core.seal import verify as check

    verdict = check(file.read_bytes())
    if not verdict.intact:
        raise Corrupt(
            f"{file.name} was changed: it states the digest {verdict.stated} and holds a document of {verdict.found}.",
            facts={"stated": verdict.stated, "found": verdict.found},
        )
    if job_id:
        _compare(verdict, job_id, home, address)
    run = verdict.document.get("run", {})
    facts = {"form": verdict.form, "digest": verdict.found, "run": str(run.get("explain_job_id", ""))}
    if as_json:
        emit({"intact": True, **facts})
    else:
        show(facts_table({"intact": f"yes{', and the same as the service gives' if job_id else ''}", **facts}))


def _compare(verdict: Verdict, job_id: str, home: Path | None, address: str | None) -> None:
    """Raises Corrupt where the service gives another document."""
    import tempfile

    from mistudio_cli.export import save_export
    from mistudio_cli.session import connect
    from mistudio_core.seal import digest_of

    with tempfile.TemporaryDirectory() as folder, connect(home, address) as client:
        path = save_export(client, "explain", job_id, "audit_json", Path(folder))
        now = digest_of(json.loads(path.read_bytes()))
    if now != verdict.found:
        raise Corrupt(
            f"The service gives a report with the digest {now}, not {verdict.found}: a person has decided about an "
            "explanation since, or it is a report of another run.",
            facts={"stated": verdict.found, "found": now},
        )
