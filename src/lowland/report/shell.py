"""What every page is made of: one HTML file without anything from elsewhere, cards and figures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from lowland.core.errors import InputError
from lowland.core.files import write_text
from lowland.core.provenance import source_hash
from lowland.report.figures import Figure

PAGE = "report.html"

# Nothing may be loaded from anywhere, whatever a library tries.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"
)


def write_document(path: Path, record: Mapping[str, Any], render: Callable[[str], str]) -> Path:
    """Write the page of `record`; one that is up to date is left alone.

    Args:
        path: where to.
        record: all that the page is made from.
        render: stamp -> the page, with the stamp in it.

    Raises:
        InputError: it cannot be written.
    """
    stamp = _stamp(record)
    if not _has_stamp(path, stamp):
        try:
            write_text(path, render(stamp))
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}") from error
    return path


def document(title: str, body: str, figures: Sequence[Figure], *, stamp: str = "") -> str:
    """A whole page: `body` is HTML, `title` is text."""
    from plotly.offline import get_plotlyjs

    specs = [{"name": f.name, "spec": f.spec} for f in figures]
    return (
        "<!doctype html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><meta name="lowland-results" '
        f'content="{stamp}"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title>"
        f"<style>{_asset('page.css')}</style></head>\n<body><main>{body}</main>\n"
        f'<script type="application/json" id="figures">{script_json(specs)}</script>\n'
        f"<script>{get_plotlyjs()}</script>\n<script>{_asset('page.js')}</script>\n"
        "</body></html>\n"
    )


def _stamp(record: Mapping[str, Any]) -> str:
    """Hash of what a page is made from: the record and the code of the report."""
    text = json.dumps(record, sort_keys=True) + source_hash(("report",))
    text += _asset("page.css") + _asset("page.js")
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _has_stamp(path: Path, stamp: str) -> bool:
    try:
        with path.open(encoding="utf-8") as file:
            return f'content="{stamp}"' in file.read(400)
    except (OSError, UnicodeDecodeError):
        return False


def _asset(name: str) -> str:
    return resources.files("lowland.report").joinpath(name).read_text(encoding="utf-8")


def script_json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def section(title: str, *content: str) -> str:
    """A heading and HTML under it."""
    return f"<section><h2>{escape(title)}</h2>{''.join(content)}</section>"


def card(content: str, shape: str = "") -> str:
    """HTML in a box that scrolls sideways where it is too wide."""
    return f'<div class="{" ".join(["card scroll", shape]).strip()}">{content}</div>'


def definitions(rows: Iterable[tuple[str, str]]) -> str:
    """Pairs of text as a list of terms."""
    cells = (f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in rows)
    return f"<dl>{''.join(cells)}</dl>"


def figure_grid(figures: Sequence[Figure], shape: str = "") -> str:
    """Places for figures, with their headings, side by side."""
    drawn = (
        f'<figure class="card"><figcaption><h3>{escape(f.title)}</h3>'
        f'<p class="note">{escape(f.note)}</p></figcaption>'
        f'<div class="plot" id="{f.name}"></div></figure>'
        for f in figures
    )
    return f'<div class="{" ".join(["figures", shape]).strip()}">{"".join(drawn)}</div>'
