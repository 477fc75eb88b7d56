"""The forms in which a run is handed out, by the short names of mistudio.explain.v1.ReportFormat.

Each form is one function of a Book to bytes, so that all of them say the same. What a form needs is
imported when it is made.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

from mistudio_explain.book import Book

_PDF, _HTML, _JSON = "application/pdf", "text/html; charset=utf-8", "application/json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """One form."""

    name: str
    """Its short name."""
    filename: str
    """The file that is downloaded."""
    media_type: str
    """Its type."""
    module: str
    """Where `render` stands: of a book to bytes; of a PDF with a folder of fonts."""

    def render(self, book: Book, fonts: Path | None = None) -> bytes:
        """The whole file; `fonts` is a folder of fonts for scripts that the built-in ones lack. Raises Unsupported."""
        make = importlib.import_module(f"mistudio_explain.reports.{self.module}").render
        made: bytes = make(book, fonts) if self.media_type == _PDF else make(book)
        return made


FORMS: dict[str, Form] = {
    form.name: form
    for form in (
        Form(name="json", filename="feature_explanations.json", media_type=_JSON, module="json_file"),
        Form(name="html", filename="explanation_report.html", media_type=_HTML, module="page"),
        Form(name="pdf", filename="explanation_report.pdf", media_type=_PDF, module="pdf"),
        Form(name="csv", filename="feature_explanations.csv", media_type="text/csv; charset=utf-8", module="csv_file"),
        Form(name="txt", filename="feature_explanations.txt", media_type="text/plain; charset=utf-8", module="txt"),
        Form(name="audit_json", filename="audit_report.json", media_type=_JSON, module="audit"),
        Form(name="audit_html", filename="audit_report.html", media_type=_HTML, module="audit_page"),
        Form(name="audit_pdf", filename="audit_report.pdf", media_type=_PDF, module="audit_pdf"),
    )
}
"""Every form."""
