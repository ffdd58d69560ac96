"""An inspection in the terminal: one row per block. Reads well from 60 columns up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.columns import Columns
from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lowland.report import inspection as words
from lowland.report.inspection import Record

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_BAR = 12
"""Cells of a bar."""


def show(record: Record, console: Console, *, page: Path | None = None) -> None:
    """Print an inspection; `page` is where the one to look at lies."""
    console.print()
    for title, subject in zip(words.titles(record), record["subjects"], strict=True):
        console.print(Text(title, style="bold"), Text(words.subject_line(subject), style="dim"))
    console.print(Text(words.data_line(record), style="dim"))
    console.print()
    if len(record["subjects"]) > 1:
        tables = [Padding(table, (0, 4, 1, 0)) for table in _compared(record, console.width - 4)]
        console.print(Columns(tables, padding=(0, 0)))
    else:
        for table in _alone(record, console.width):
            console.print(Padding(table, (0, 0, 1, 0)))
    for table in _models(record, console.width):
        console.print(Padding(table, (0, 0, 1, 0)))
    for line in words.only_in(record):
        console.print(Text(line, style="dim"))
    _footer(record, page, console)


def show_instruments(rows: Sequence[tuple[str, str, str, str]], console: Console) -> None:
    """Print instruments: name, what it measures, what it looks at, source."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    for name, text, looks_at, source in rows:
        beside = ", ".join(part for part in (looks_at, source) if part)
        table.add_row(Text(name), Text(text) + Text(f"  {beside}", "dim"))
    console.print(table)


def _alone(record: Record, width: int) -> list[Table]:
    """Blocks of one network: as many instruments beside each other as fit."""
    subject = record["subjects"][0]
    names = words.by_block(record)
    if not names:
        return []
    short, path = words.short_names(list(subject["blocks"]))
    sizes = words.widths(subject)
    columns: list[tuple[str, list[str]]] = []
    if sizes:
        columns.append(("features", [f"{sizes[b]:,}" if b in sizes else "" for b in short]))
    for name in names:
        columns.append((name, [words.cell(subject["blocks"][b].get(name)) for b in short]))
    labels = [short[block] for block in short]
    head = f"{path}…" if path else "block"
    groups = _fitting(head, labels, columns, width)
    bar = _bars(subject, names[0]) if len(groups) == 1 else []
    spare = width - _extent(head, labels, columns)
    if bar and spare >= _BAR + 2:
        columns.insert(1 + bool(sizes), ("", bar))
        groups = [columns]
    return [_table(head, labels, group) for group in groups]


def _compared(record: Record, width: int) -> list[Group]:
    """One table per instrument: A, B, and the change from A to B."""
    a, b = record["subjects"]
    blocks = words.common(record)
    short, path = words.short_names(blocks)
    titles = words.titles(record)
    labels = [short[block] for block in blocks]
    tables = []
    for name in words.by_block(record):
        pairs = [(a["blocks"][block].get(name), b["blocks"][block].get(name)) for block in blocks]
        columns = [
            (_folded(titles[0]), [words.cell(one) for one, _ in pairs]),
            (_folded(titles[1]), [words.cell(other) for _, other in pairs]),
            ("change", [words.change(one, other) for one, other in pairs]),
        ]
        head = f"{path}…" if path else "block"
        for group in _fitting(head, labels, columns, width):
            tables.append(Group(Text(name, style="bold"), _table(head, labels, group)))
    for group in _fitting("block", labels, _between(record, blocks), width):
        if group:
            heading = Text("between the two", style="bold")
            tables.append(Group(heading, _table("block", labels, group)))
    return tables


def _between(record: Record, blocks: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Columns of what was measured between the two networks."""
    return [
        (name, [words.cell(record["between"].get(block, {}).get(name)) for block in blocks])
        for name in (comparison["name"] for comparison in record["comparisons"])
    ]


def _bars(subject: Record, name: str) -> list[str]:
    """The first instrument along depth, each value as a bar of its share of the largest."""
    values = [words.number(row.get(name)) for row in subject["blocks"].values()]
    largest = max((v for v in values if v is not None), default=0.0)
    if largest <= 0 or any(v is not None and v < 0 for v in values):
        return []
    return [_bar((v or 0.0) / largest) for v in values]


def _bar(share: float) -> str:
    eighths = round(share * _BAR * 8)
    full, rest = divmod(eighths, 8)
    return (_EIGHTHS[8] * full + _EIGHTHS[rest].strip()).ljust(_BAR)


def _fitting(
    head: str, labels: Sequence[str], columns: list[tuple[str, list[str]]], width: int
) -> list[list[tuple[str, list[str]]]]:
    """Columns in groups that fit beside the block names; one column is never broken."""
    groups: list[list[tuple[str, list[str]]]] = [[]]
    for column in columns:
        if groups[-1] and _extent(head, labels, [*groups[-1], column]) > width:
            groups.append([])
        groups[-1].append(column)
    return groups


def _extent(head: str, labels: Sequence[str], columns: Sequence[tuple[str, list[str]]]) -> int:
    """Cells that a table takes."""
    first = max(map(len, (head, *labels)))
    return first + sum(2 + max(map(len, (*title.split("\n"), *cells))) for title, cells in columns)


def _folded(title: str, at: int = 16) -> str:
    """A long name on several lines."""
    return "\n".join(title[i : i + at] for i in range(0, len(title), at))


def _table(head: str, labels: Sequence[str], columns: Sequence[tuple[str, list[str]]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column(Text(head), no_wrap=True)
    for name, cells in columns:
        bar = not name and all(set(cell) <= set(_EIGHTHS) for cell in cells)
        table.add_column(
            Text(name),
            justify="left" if bar else "right",
            vertical="bottom",
            no_wrap=True,
            style="cyan" if bar else "",
        )
    for number, label in enumerate(labels):
        table.add_row(Text(label), *(Text(cells[number]) for _, cells in columns))
    return table


def _models(record: Record, width: int) -> list[Table]:
    """What was found on whole networks, one instrument a row."""
    rows = words.model_rows(record)
    if not rows:
        return []
    labels = [name for name, _ in rows]
    several = len(record["subjects"]) > 1
    columns = [
        (_folded(title) if several else "", [words.cell(found[place]) for _, found in rows])
        for place, title in enumerate(words.titles(record))
    ]
    if several:
        columns.append(("change", [words.change(one, other) for _, (one, other) in rows]))
    groups = _fitting("whole network", labels, columns, width)
    return [_table("whole network", labels, group) for group in groups]


def _footer(record: Record, page: Path | None, console: Console) -> None:
    explained = Table.grid(padding=(0, 2))
    explained.add_column(style="dim", no_wrap=True)
    explained.add_column(style="dim")
    for name, text in definitions(record):
        explained.add_row(Text(name), Text(text))
    console.print(explained)
    for note in words.notes(record):
        console.print(Text(note, style="yellow"))
    if page is not None:
        console.print(f"report: {page}", markup=False, highlight=False, soft_wrap=True)


def definitions(record: Record) -> list[tuple[str, str]]:
    """Instrument -> the definition that was used, as its records have it.

    That over the whole network where there is one; else that of the first block, with a word where
    other blocks have another one (a tolerance that depends on their width).
    """
    found: dict[str, str] = {}
    for subject in record["subjects"]:
        for name, measured in subject["model"].items():
            found.setdefault(name, measured["definition"] + _setting(measured))
    of_blocks: dict[str, dict[str, str]] = {}
    for subject in record["subjects"]:
        for block, row in subject["blocks"].items():
            for name, measured in row.items():
                text = measured["definition"] + _setting(measured)
                of_blocks.setdefault(name, {}).setdefault(text, block)
    for name, texts in of_blocks.items():
        text, block = next(iter(texts.items()))
        found.setdefault(name, text if len(texts) == 1 else f"{text} (so in {block}; not in all)")
    found |= {c["name"]: c["words"] for c in record["comparisons"]}
    return [(i["name"], found[i["name"]]) for i in record["instruments"] if i["name"] in found]


def _setting(found: Record) -> str:
    """Radius and batch size, where a record has them."""
    parts = [f"; {key} = {found[key]:g}" for key in ("rho", "m") if found.get(key) is not None]
    return "".join(parts)
