"""The verdicts on a whole paper, in one table: in the terminal, as Markdown, as a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from lowland.core.errors import InputError
from lowland.core.files import write_text
from lowland.report import words
from lowland.report.shell import card, document, section
from lowland.report.tables import html_table
from lowland.report.terminal import STYLES

HEAD = ("claim", "source", "published", "setting", "effect", "verdict")
NOT_RUN = "not run"
_WIDE = 100


def show_claims(table: Mapping[str, Any], console: Console) -> None:
    """Print every claim with its verdict, study by study."""
    console.print(Text(table["title"], style="bold"))
    console.print(Text(table["source"], style="dim"))
    console.print(_summary(table["rows"]), style="bold", highlight=False)
    for study, rows in _by_study(table):
        console.print()
        console.print(Text(study, style="bold cyan"))
        console.print(_printed(rows, wide=console.width >= _WIDE))


def write_claims(table: Mapping[str, Any], path: Path) -> Path:
    """Write the table to a file, Markdown or a page by its ending.

    Raises:
        InputError: the ending is another, or the file cannot be written.
    """
    makers = {".md": markdown, ".html": page}
    if path.suffix not in makers:
        raise InputError(f"{path} ends in {path.suffix!r}: give a name in .md or .html")
    try:
        write_text(path, makers[path.suffix](table))
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error
    return path


def markdown(table: Mapping[str, Any]) -> str:
    """The table as Markdown."""
    parts = [f"# {table['title']}: every claim and its verdict", _about(table)]
    for study, rows in _by_study(table):
        lines = [f"## {study}", "", _line(HEAD), _line(["---"] * len(HEAD))]
        parts.append("\n".join([*lines, *(_line(_cells(row)) for row in rows)]))
    records = [_line(("record", "setting", "seeds", "runs", "commit", "hardware", "made"))]
    records.append(_line(["---"] * 7))
    records += [_line(_record(record)) for record in table["records"]]
    parts.append("\n".join(["## Records", "", *records]))
    return "\n\n".join(parts) + "\n"


def page(table: Mapping[str, Any]) -> str:
    """The table as one HTML file."""
    top = (
        f"<header><h1>{escape(table['title'])}</h1>"
        f'<p class="meta">{escape(table["source"])}</p>'
        f'<p class="summary">{escape(_summary(table["rows"]))}</p></header>'
    )
    studies = (
        section(study, card(html_table(HEAD, [_cells(row) for row in rows]), "dense"))
        for study, rows in _by_study(table)
    )
    head = ("record", "setting", "seeds", "runs", "commit", "hardware", "made")
    records = html_table(head, [_record(record) for record in table["records"]])
    body = "".join([top, *studies, section("Records", card(records, "dense"))])
    return document(f"{table['name']}: {table['title']}", body, ())


def _about(table: Mapping[str, Any]) -> str:
    return (
        f"Source: {table['source']}. {_summary(table['rows'])}. Made from the records below by "
        f"`lowland study {table['name']} --claims`; an effect is a mean over seeds with an "
        "interval that is corrected for the number of claims of its study."
    )


def _summary(rows: Sequence[Mapping[str, Any]]) -> str:
    judged = [row for row in rows if row["verdict"] != NOT_RUN]
    left = len(rows) - len(judged)
    said = words.summary(judged) if judged else "no claim has been run"
    return said + (f"; {left} not run" if left and judged else "")


def _by_study(table: Mapping[str, Any]) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    for study, rows in groupby(table["rows"], key=lambda row: str(row["study"])):
        yield study, list(rows)


def _cells(row: Mapping[str, Any]) -> list[str]:
    needs = "" if row["verdict"] == NOT_RUN else f" (needs {words.threshold(row)})"
    return [
        row["sentence"],
        row["source"],
        row["published"],
        row["setting"] or words.DASH,
        f"{_effect(row)}{needs}",
        row["verdict"],
    ]


def _effect(row: Mapping[str, Any]) -> str:
    return words.DASH if row["verdict"] == NOT_RUN else words.effect(row)


def _record(record: Mapping[str, Any]) -> list[str]:
    commit = (record["commit"] or words.DASH)[:10]
    if record.get("judged"):
        commit += f", judged at {record['judged'][:10]}"
    told = (record["folder"], record["setting"], str(record["seeds"]), str(record["runs"]))
    return [*told, commit, record["hardware"], record["time"][:10]]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _printed(rows: Sequence[Mapping[str, Any]], *, wide: bool) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, min_width=14)
    table.add_column(ratio=3)
    if wide:
        table.add_column(ratio=2)
    for row in rows:
        word = row["verdict"]
        chip = Text(f"{words.VERDICTS.get(word, words.DASH)} {word}", style=STYLES.get(word, "dim"))
        claim = Group(
            Text(row["sentence"]),
            Text(f"{row['source']}: {row['published']}", style="dim"),
        )
        found = Group(Text(_effect(row), style="cyan"), Text(row["setting"], style="dim"))
        table.add_row(chip, *([claim, found] if wide else [Group(claim, found)]))
        table.add_row()
    return table
