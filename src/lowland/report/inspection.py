"""An inspection as rows and words, the same in the terminal and on the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lowland.report import words

Record = Mapping[str, Any]

SHARES = ("error", "share", "fraction", "accuracy", "alignment")
"""Records whose names end so hold shares, which are shown in percent."""

UNCONVERGED = "\N{DAGGER}"
"""Marks values whose iteration stopped before its tolerance."""


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        name: the block, short.
        cells: one per column, empty where nothing was measured.
    """

    name: str
    cells: tuple[str, ...]


def measured(subject: Record) -> list[str]:
    """Names of the instruments that some block of a subject has a record of."""
    names = dict.fromkeys(name for row in subject["blocks"].values() for name in row)
    return list(names)


def by_block(record: Record) -> list[str]:
    """Names of the instruments that have records of blocks, in the order they are shown in."""
    there = {name for subject in record["subjects"] for name in measured(subject)}
    return [i["name"] for i in record["instruments"] if i["name"] in there]


def short_names(names: Sequence[str]) -> tuple[dict[str, str], str]:
    """Block names without the path that all of them share, and that path.

    >>> short_names(["encoder.layer.0", "encoder.layer.1"])
    ({'encoder.layer.0': '0', 'encoder.layer.1': '1'}, 'encoder.layer.')
    >>> short_names(["block1", "block2"])
    ({'block1': 'block1', 'block2': 'block2'}, '')
    """
    parts = [name.split(".") for name in names]
    common = 0
    while len({tuple(p[: common + 1]) for p in parts}) == 1 and all(
        len(p) > common + 1 for p in parts
    ):
        common += 1
    path = "".join(f"{part}." for part in parts[0][:common]) if parts else ""
    return {name: name.removeprefix(path) for name in names}, path


def cell(found: Record | None) -> str:
    """A measured value with what it must be read with: unit, standard error, doubt."""
    if found is None:
        return ""
    text = value_text(found, found["value"])
    error = found.get("uncertainty")
    if isinstance(error, int | float) and error > 0:
        text += f" ±{_like(found, error)}"
    return text + (UNCONVERGED if found.get("converged") is False else "")


def value_text(found: Record, value: Any) -> str:
    """A number as a count, a percentage or a decimal.

    >>> value_text({"name": "feature_rank"}, 1234), value_text({"name": "knn_error"}, 0.0345)
    ('1,234', '3.45%')
    >>> value_text({"name": "x"}, 0.01234567), value_text({"name": "x"}, "nan")
    ('0.01235', 'nan')
    """
    if value is None:
        return words.DASH
    if not isinstance(value, int | float):
        return str(value)
    if is_share(found):
        return words.signed(f"{100 * value:.2f}") + "%"
    if isinstance(value, int):
        return words.signed(f"{value:,}")
    return words.signed(_decimal(value))


def is_share(found: Record) -> bool:
    """Whether a record holds a share."""
    return str(found["name"]).endswith(SHARES)


def _decimal(value: float) -> str:
    if value == 0 or 1e-4 <= abs(value) < 1e5:
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:.2e}"


def _like(found: Record, error: float) -> str:
    """A standard error in the unit of its value, two digits."""
    return f"{100 * error:.2g}%" if is_share(found) else f"{error:.2g}"


def number(found: Record | None) -> float | None:
    """The value as a finite number, or None."""
    value = None if found is None else found["value"]
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    return None


def change(before: Record | None, after: Record | None) -> str:
    """From A to B: relative, for shares in points; empty where one of them is missing.

    >>> change({"name": "feature_rank", "value": 50}, {"name": "feature_rank", "value": 40})
    '−20.0%'
    >>> change({"name": "knn_error", "value": 0.05}, {"name": "knn_error", "value": 0.03})
    '−2.00 points'
    """
    a, b = number(before), number(after)
    if a is None or b is None or before is None:
        return ""
    if is_share(before):
        return _plus(f"{100 * (b - a):.2f}") + " points"
    if a <= 0 or b < 0:
        return _plus(_decimal(b - a))
    if b > 10 * a:
        return f"{b / a:.3g} times"
    return _plus(f"{100 * (b / a - 1):.1f}") + "%"


def _plus(text: str) -> str:
    signed = words.signed(text)
    return signed if signed.startswith(words.MINUS) or not signed.strip("0.,") else f"+{signed}"


def widths(subject: Record) -> dict[str, int]:
    """Block -> number of features, as far as a record says."""
    found = {}
    for block, row in subject["blocks"].items():
        sizes = [r["dimension"] for r in row.values() if isinstance(r.get("dimension"), int)]
        if sizes:
            found[block] = sizes[0]
    return found


def model_rows(record: Record) -> list[tuple[str, list[Record | None]]]:
    """What was found on the whole networks: a name, and a record of each network.

    Of a record with an error, the error is a row of its own.
    """
    rows: list[tuple[str, list[Record | None]]] = []
    for instrument in record["instruments"]:
        name = instrument["name"]
        found = [subject["model"].get(name) for subject in record["subjects"]]
        if not any(found):
            continue
        rows.append((name, found))
        errors = [None if one is None else _error_of(one) for one in found]
        if any(errors):
            rows.append((f"{name}: error", errors))
    return rows


def _error_of(found: Record) -> Record | None:
    error = found.get("error")
    return {"name": "error", "value": error} if isinstance(error, int | float) else None


def titles(record: Record) -> list[str]:
    """The networks by the shortest names that tell them apart."""
    names = [subject["name"] for subject in record["subjects"]]
    short = [_last(name) for name in names]
    return short if len(set(short)) == len(names) else names


def _last(name: str) -> str:
    kind, colon, rest = name.partition(":")
    place = (rest if colon else kind).rstrip("/").rpartition("/")[2]
    return place or name


def data_line(record: Record) -> str:
    """What was measured on."""
    data = record["data"]
    split = "" if data["split"] == "all" else f", {data['split']}"
    labels = "" if data["labelled"] else ", without labels"
    n = record["subjects"][0]["n"]
    return f"{data['name']}{split}: {n:,} {data['kind']}, {data['order']}{labels}"


def subject_line(subject: Record) -> str:
    """What a network is."""
    return f"{subject['kind']}, {subject['parameters']:,} parameters, {subject['dtype']}"


def taken(subject: Record) -> str:
    """What was taken of each block, in words."""
    given = subject["capturing"]
    what = {
        "class": "the class token",
        "mean": "the mean token",
    }
    tokens = given.get("tokens")
    parts = [
        f"{given['where']} of the block" if "where" in given else "outputs",
        f"{what.get(tokens, f'tokens {tokens}')}" if tokens else "",
        f"{given['spatial']} over positions" if "spatial" in given else "",
    ]
    return ", ".join(part for part in parts if part)


def unconverged(record: Record) -> bool:
    """Whether any value is marked."""
    rows = [r for s in record["subjects"] for r in (*s["blocks"].values(), s["model"])]
    return any(found.get("converged") is False for row in rows for found in row.values())


def notes(record: Record) -> list[str]:
    """What the reader should know, each once, with the network it is about where there are two."""
    several = len(record["subjects"]) > 1
    found = [
        f"{title}: {note}" if several else note
        for title, subject in zip(titles(record), record["subjects"], strict=True)
        for note in subject["notes"]
    ]
    found += record["notes"]
    if unconverged(record):
        found.append(f"{UNCONVERGED} stopped before its tolerance was reached.")
    found += _bounded(record)
    return list(dict.fromkeys(found))


def _bounded(record: Record) -> list[str]:
    """A word where ranks are as large as the number of examples lets them be."""
    n = record["subjects"][0]["n"]
    ranks = [
        found["value"]
        for subject in record["subjects"]
        for row in subject["blocks"].values()
        for found in row.values()
        if found["name"] == "feature_rank" and found.get("dimension", 0) > n
    ]
    if any(isinstance(rank, int) and rank > 0.5 * n for rank in ranks):
        return [
            f"A rank cannot exceed the {n:,} examples, and some are above half of that: more "
            "examples would show more."
        ]
    return []


def only_in(record: Record) -> list[str]:
    """For two networks, the blocks that only one of them has."""
    if len(record["subjects"]) < 2:
        return []
    (a, b), (one, other) = (set(s["blocks"]) for s in record["subjects"]), titles(record)
    found = []
    for title, mine, theirs in ((one, a, b), (other, b, a)):
        if mine - theirs:
            blocks = next(s for s in record["subjects"] if set(s["blocks"]) == mine)["blocks"]
            found.append(f"only in {title}: {', '.join(n for n in blocks if n not in theirs)}")
    return found


def common(record: Record) -> list[str]:
    """Blocks that all networks have, in the order of the first."""
    first, *rest = record["subjects"]
    return [name for name in first["blocks"] if all(name in s["blocks"] for s in rest)]
