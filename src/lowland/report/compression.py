"""A compression in the terminal: before and after, and what was tried. Good from 60 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

Record = Mapping[str, Any]


def show(record: Record, folder: Path, console: Console) -> None:
    """Print what was chosen, what it does, and the best of each quantizer."""
    features = record["features"]
    console.print()
    console.print(Text(features["name"], style="bold", overflow="fold"))
    shape = f"{features['n']:,} × {features['dimension']:,} {features['dtype']}"
    console.print(Text(f"{shape}, {record['metric']}", style="dim"))
    console.print()
    console.print(_sentence(record))
    console.print()
    console.print(_sides(record))
    console.print()
    console.print(_tried(record))
    console.print()
    for line in notes(record):
        console.print(Text(line, style="dim"))
    console.print(f"written: {folder}", markup=False, highlight=False, soft_wrap=True)


def show_quantizers(rows: Sequence[tuple[str, int, str]], console: Console) -> None:
    """Print quantizers: name, bits for each dimension, what it is."""
    table = _table(("quantizer", "left"), ("bits", "right"), ("", "left"))
    for name, bits, text in rows:
        table.add_row(name, str(bits), text)
    console.print(table)


def notes(record: Record) -> list[str]:
    """What a reader must know beside the numbers."""
    queries, validation = record["queries"], record["validation"]
    k = record["k"]
    found = [
        f"Recall@{k} with a 95% interval, on {queries['test']:,} queries that chose nothing "
        f"({queries['source']}); {validation['value']:.4f} on the {queries['validation']:,} that "
        "chose.",
        f"Queries a second: all {queries['test']:,} at once, {_threads(record['threads'])}; before "
        "is exact search over float32.",
    ]
    if queries["left_out"]:
        found.append(
            f"{queries['left_out']} queries are left out: too many vectors are as near as their "
            f"neighbour {k}."
        )
    if queries["copies"]:
        found.append(
            f"{queries['copies']} of the queries that were given are copies of vectors, and each "
            "finds itself."
        )
    if record["rerank"] > 1:
        found.append(
            f"The first {k * record['rerank']} are put in order by the vectors themselves, which "
            "stay where they are and are not counted in bytes."
        )
    if record["wanted"] is not None and record["recall"]["high"] < record["wanted"]:
        found.append(
            "On the queries that chose nothing the target is missed by more than chance: give more "
            "with --query-count, or a higher target."
        )
    return found


def _sentence(record: Record) -> Text:
    before, after = record["before"], record["after"]
    index = "" if record["index"] == "flat" else f", {record['index']} ({record['setting']})"
    ratio = before["bytes"] / after["bytes"]
    text = Text(f"{record['quantizer']} × {record['dimensions']} dimensions{index}", style="bold")
    text.append(f": {ratio:.1f} times fewer bytes" if ratio >= 1 else ": more bytes", style="bold")
    asked = record["target"]
    if record["wanted"] is None:
        asked = f"the highest {asked} within {record['at_most']:g} bytes"
    text.append(f", for {asked}")
    return text


def _sides(record: Record) -> Table:
    before, after, recall = record["before"], record["after"], record["recall"]
    table = _table(("", "left"), ("before", "right"), ("after", "right"), ("", "left"))
    interval = f"[{recall['low']:.4f}, {recall['high']:.4f}]"
    table.add_row(f"recall@{record['k']}", "1", f"{recall['value']:.4f}", interval)
    table.add_row("bytes per vector", _size(before["bytes"]), _size(after["bytes"]), "")
    table.add_row("dimensions", f"{before['dimensions']:,}", f"{after['dimensions']:,}", "")
    speeds = [side["queries_per_second"] for side in (before, after)]
    table.add_row("queries a second", *(f"{speed:,.0f}" for speed in speeds), _faster(*speeds))
    if after["index_bytes"]:
        whole = before["bytes"] * record["features"]["n"]
        table.add_row("index", _bytes(whole), _bytes(after["index_bytes"]), "")
    return table


def _faster(before: float, after: float) -> str:
    return f"{after / before:.1f} ×" if after >= before else f"1/{before / after:.1f} ×"


def _tried(record: Record) -> Table:
    """Of each quantizer the fewest bytes that reach the target, or else what it found at most."""
    best: dict[str, Record] = {}
    for trial in record["trials"]:
        old = best.get(trial["quantizer"])
        if old is None or _order(trial) < _order(old):
            best[trial["quantizer"]] = trial
    table = _table(
        ("quantizer", "left"),
        ("dimensions", "right"),
        ("bytes", "right"),
        (f"recall@{record['k']}", "right"),
        ("", "left"),
    )
    for name, trial in best.items():
        chosen = name == record["quantizer"] and trial["dimensions"] == record["dimensions"]
        mark = "chosen" if chosen else "" if trial["reaches"] else "short of the target"
        style = "bold" if chosen else "" if trial["reaches"] else "dim"
        table.add_row(
            name,
            f"{trial['dimensions']:,}",
            _size(trial["bytes"]),
            f"{trial['recall']:.4f}",
            mark,
            style=style,
        )
    return table


def _order(trial: Record) -> tuple[bool, float]:
    reaches = bool(trial["reaches"])
    return not reaches, trial["bytes"] if reaches else -trial["recall"]


def _table(*columns: tuple[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for name, justify in columns:
        table.add_column(name, justify=justify, no_wrap=bool(name))
    return table


def _threads(count: int) -> str:
    return f"{count} thread" + "s" * (count != 1)


def _size(count: float) -> str:
    return f"{count:,.0f}" if count >= 100 else f"{count:.1f}"


def _bytes(count: float) -> str:
    for unit in ("bytes", "KB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:,.{0 if count >= 100 or unit == 'bytes' else 1}f} {unit}"
