"""The record of an inspection: plain values, from which table and page are made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lowland.core.provenance import provenance
from lowland.core.records import Measurement
from lowland.inspection.comparisons import COMPARISONS
from lowland.inspection.measuring import Finding, notes_on
from lowland.inspection.request import Request
from lowland.measure import read_options

FORMAT = "lowland-inspection"
VERSION = 1

LONGEST = 256
"""Lists of more numbers than this are thinned, see `trimmed`."""


def make_record(
    request: Request,
    findings: Sequence[Finding],
    between: Mapping[str, Mapping[str, Measurement]],
    seconds: float,
) -> dict[str, Any]:
    """Everything about an inspection as strict JSON values.

    Non-finite numbers are the strings 'nan', 'inf' and '-inf'.
    """
    record: dict[str, Any] = plain(
        {
            "format": FORMAT,
            "version": VERSION,
            "asked": request.to_dict(),
            "preset": None
            if request.preset is None
            else {key: getattr(request.preset, key) for key in ("name", "words", "source")},
            "instruments": [
                {
                    "name": i.name,
                    "words": i.words,
                    "source": i.source,
                    "looks_at": i.looks_at,
                }
                for i in request.instruments
            ],
            "data": findings[0].examples.to_dict(),
            "subjects": [_subject(finding) for finding in findings],
            "comparisons": [
                {"name": c.name, "words": c.words}
                for c in COMPARISONS.values()
                if any(c.name in row for row in between.values())
            ],
            "notes": [*notes_on(findings[0].examples), *_short_of(request, findings[0])],
            "between": {block: _records(row) for block, row in between.items()},
            "seconds": seconds,
            "provenance": provenance(),
        }
    )
    return record


def _short_of(request: Request, finding: Finding) -> list[str]:
    """A word where a preset could not be followed to the letter."""
    preset, n, split = request.preset, finding.examples.n, finding.examples.split
    if preset is None:
        return []
    notes = []
    if n != preset.examples or split != preset.split:
        notes.append(
            f"{preset.name} is for {preset.examples:,} examples of split {preset.split}; these are "
            f"{n:,} of {split}."
        )
    if "turn" in finding.examples.order:
        notes.append(
            f"{preset.name} takes the examples as they are stored; here classes alternate."
        )
    chosen = read_options({i.name: preset.options_of(i) for i in request.instruments})
    changed = [
        f"{name}.{key}"
        for name, options in request.options.items()
        for key, value in options.items()
        if name in preset.options and value != chosen[name].get(key)
    ]
    if changed:
        notes.append(f"{preset.name} has another {', '.join(changed)}: these numbers are not its.")
    return notes


def _subject(finding: Finding) -> dict[str, Any]:
    subject = finding.subject
    parameters = {id(p): p for p in subject.module.parameters()}.values()
    return {
        "name": subject.name,
        "kind": subject.kind,
        "parameters": sum(p.numel() for p in parameters),
        "dtype": next((str(p.dtype).removeprefix("torch.") for p in parameters), "none"),
        "device": finding.device,
        "preprocessing": None
        if subject.preprocessing is None
        else {"words": subject.preprocessing.words(), **subject.preprocessing.to_dict()},
        "capturing": finding.capturing,
        "n": finding.examples.n,
        "facts": subject.facts,
        "notes": list(finding.notes),
        "blocks": {block: _records(row) for block, row in finding.blocks.items()},
        "model": _records(finding.model),
        "seconds": finding.seconds,
    }


def _records(row: Mapping[str, Measurement]) -> dict[str, Any]:
    return {name: trimmed(record.to_dict()) for name, record in row.items()}


def trimmed(value: Any) -> Any:
    """The same with long lists of numbers thinned and large tables left out.

    A list of more than `LONGEST` numbers becomes ``{"length": n, "index": [...], "values": [...],
    "cumulative": [...]}``: values at places that get sparser along the list, with the sum of all
    values up to and with each. A list of lists with more than `LONGEST`² numbers in all becomes
    ``{"left out": [rows, columns]}``.
    """
    if isinstance(value, Mapping):
        return {str(key): trimmed(item) for key, item in value.items()}
    if not isinstance(value, list | tuple):
        return value
    if len(value) > LONGEST and all(isinstance(item, int | float) for item in value):
        return _thinned(value)
    rows = [item for item in value if isinstance(item, list | tuple)]
    if rows and sum(map(len, rows)) > LONGEST**2:
        return {"left out": [len(rows), max(map(len, rows))]}
    return [trimmed(item) for item in value]


def _thinned(values: Sequence[float]) -> dict[str, Any]:
    n = len(values)
    spread = np.geomspace(1, n, LONGEST // 2).round().astype(int) - 1
    index = sorted({*range(LONGEST // 4), *spread.tolist(), n - 1})
    sums = np.cumsum(np.asarray(values, dtype=np.float64))
    return {
        "length": n,
        "index": index,
        "values": [values[i] for i in index],
        "cumulative": [float(sums[i]) for i in index],
    }


def plain(value: Any) -> Any:
    """Strict JSON values: non-finite floats as strings, tuples as lists, the rest as words."""
    if isinstance(value, bool) or value is None or isinstance(value, int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return plain(value.item()) if isinstance(value, np.generic) else str(value)
