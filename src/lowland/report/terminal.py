"""The report in the terminal: verdicts first, then means by ρ. Reads well from 60 columns up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lowland.report import words
from lowland.report.arms import arm_table
from lowland.report.drawings import sheet
from lowland.report.tables import Rows, by_rho

STYLES = {
    "holds": "bold green",
    "does not hold": "bold red",
    "cannot tell": "bold yellow",
    "no data here": "dim",
}
"""How each verdict is printed."""
_WIDE = 90

MOST_KEYS = 3
"""Columns of a study's own table that are said again beside those that did not fit."""


def show(results: Mapping[str, Any], page: Path, console: Console) -> None:
    """Print the report; `page` is where the one to look at lies."""
    study, asked, claims = results["study"], results["asked"], results["claims"]
    console.print()
    console.print(Text(study["title"], style="bold"))
    seeds = words.seeds(len(asked["seeds"]))
    console.print(
        Text(f"{study['name']}, {asked['size']} size, on {asked['data']}, {seeds}", style="dim")
    )
    console.print()
    console.print(words.summary(claims), style="bold", highlight=False)
    console.print()
    console.print(_verdicts(claims, wide=console.width >= _WIDE))
    if results.get("comparison"):
        parts = _arms(results)
    elif results.get("tables"):
        parts = _sheets(results, console.width)
    else:
        parts = _tables(results, console.width)
    for part in parts:
        console.print(part)
    _footer(results, page, console)


def show_studies(studies: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print what each study is, where it comes from, what it shows, and how long it takes."""
    for study in studies:
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True, style="dim")
        table.add_column()
        table.add_row("source", Text(study["source"]))
        table.add_row("shows", Text(study["shows"]))
        for size, time in study["sizes"].items():
            table.add_row(f"--size {size}", Text(time))
        console.print(Text(study["name"], style="bold") + Text(f"  {study['title']}"))
        console.print(Padding(table, (0, 0, 1, 2)))


def show_methods(methods: Sequence[Mapping[str, str]], console: Console) -> None:
    """Print the methods: a table where it fits, otherwise a few lines for each."""
    heads = ["name", "kind", "source", "passes", "extra memory", "needs"]
    if console.width >= 110:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        for head in heads:
            table.add_column(head, no_wrap=head == "name")
        for method in methods:
            table.add_row(*(Text(method[head]) for head in heads))
        console.print(table)
        return
    for method in methods:
        console.print(Text(method["name"], style="bold") + Text(f"  {method['kind']}", style="dim"))
        rest = [head for head in heads[2:] if method[head]]
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True, style="dim")
        table.add_column()
        for head in rest:
            table.add_row(head, Text(method[head]))
        console.print(Padding(table, (0, 0, 0, 2)))


def _verdicts(claims: Sequence[Mapping[str, Any]], *, wide: bool) -> Table:
    table = Table.grid(padding=(0, 2), expand=False)
    table.add_column(no_wrap=True)
    table.add_column(ratio=3)
    if wide:
        table.add_column(ratio=2)
    for claim in claims:
        word = claim["verdict"]
        chip = Text(f"{words.VERDICTS[word]} {word}", style=STYLES[word])
        sentence = Text(claim["sentence"])
        numbers = Text(
            words.effect(claim), style="cyan" if claim["estimate"] is not None else "dim"
        )
        needs = Text(f"needs {words.threshold(claim)}", style="dim")
        cells = [sentence, Group(numbers, needs)] if wide else [Group(sentence, numbers, needs)]
        table.add_row(chip, *cells)
        table.add_row()
    return table


def _tables(results: Mapping[str, Any], width: int) -> list[Padding]:
    """Means at the end by ρ, as many columns beside each other as fit."""
    head, rows = by_rho(results)
    each = max(1, (width - 8) // 17)
    return [
        Padding(_table(head, rows, range(i, min(i + each, len(head)))), (0, 0, 1, 0))
        for i in range(1, len(head), each)
    ]


def _sheets(results: Mapping[str, Any], width: int) -> list[Padding]:
    """The study's own tables, as many columns beside each other as fit."""
    parts = []
    for record in results["tables"]:
        head, rows = sheet(record)
        parts.append(Padding(Text(record["title"], style="bold"), 0))
        for columns in _fitting(head, rows, width):
            table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
            for index in columns:
                table.add_column(head[index], justify="right" if index else "left", no_wrap=True)
            for row in rows:
                table.add_row(*(Text(row[index]) for index in columns))
            parts.append(Padding(table, (0, 0, 1, 0)))
    return parts


def _fitting(head: Sequence[str], rows: Rows, width: int) -> list[list[int]]:
    """Columns in groups that fit, those that tell rows apart in every group."""
    widths = [2 + max(len(row[index]) for row in (head, *rows)) for index in range(len(head))]
    keys = _keys(rows)
    groups = [list(range(keys))]
    for index in range(keys, len(head)):
        if len(groups[-1]) > keys and sum(widths[i] for i in (*groups[-1], index)) > width:
            groups.append(list(range(keys)))
        groups[-1].append(index)
    return groups


def _keys(rows: Rows) -> int:
    """How many of the first columns it takes that no two rows are alike; 1 where three do not.

    >>> _keys([["a", "0", "7"], ["a", "1", "7"]])
    2
    """
    for count in range(1, MOST_KEYS + 1):
        if len({tuple(row[:count]) for row in rows}) == len(rows):
            return count
    return 1


def _arms(results: Mapping[str, Any]) -> list[Padding]:
    """One row per arm; the page has more columns."""
    head, rows = arm_table(results, short=True)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for index, name in enumerate(head):
        table.add_column(
            name,
            justify="right" if index else "left",
            vertical="bottom",
            max_width=20 if not index else 13,
        )
    for row in rows:
        table.add_row(*row)
    return [Padding(table, (0, 0, 1, 0))]


def _table(head: Sequence[str], rows: Rows, columns: Sequence[int]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for index in (0, *columns):
        table.add_column(head[index], justify="right", vertical="bottom", max_width=15)
    for row in rows:
        table.add_row(*(row[index] for index in (0, *columns)))
    return table


def _footer(results: Mapping[str, Any], page: Path, console: Console) -> None:
    console.print(
        "Means over seeds ± half of a 95% t interval (not corrected). The verdicts' intervals are "
        f"corrected for {results['rule']['family']} claims and hold together with 95%.",
        style="dim",
        highlight=False,
    )
    for failure in results["failures"]:
        console.print(
            f"failed: {failure['group']}, {words.radius(failure['rho'])}, "
            f"seed {failure['seed']}: {failure['error']}",
            style="red",
            markup=False,
            highlight=False,
        )
    console.print(f"report: {page}", markup=False, highlight=False, soft_wrap=True)
