"""A study and those under it: a whole paper, run in one go and shown in one table of verdicts.

`low-rank/relu` is under `low-rank`. The table has a row for every claim of every one of them: with
the verdict of each record of results that is found, or without one where no record has judged it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lowland.core.errors import InputError
from lowland.report.results import RESULTS, read_results
from lowland.studies.study import Claim, Study, describe

NOT_RUN = "not run"
PLACES = (Path("runs"), Path("results"))
"""Where results are looked for: what was run here, and what comes with the project."""

_APART = ("data", "size", "setting", "exact", "overrides", "seed")
"""What tells records of a study apart, of what was asked."""

_SHOWN = ("name", "sentence", "source", "published", "effect", "unit", "kind", "threshold")


def family(name: str, studies: Mapping[str, Study]) -> list[Study]:
    """The study of that name and those under it, in their order."""
    return [s for s in studies.values() if s.name == name or s.name.startswith(f"{name}/")]


def claims_table(
    name: str, studies: Mapping[str, Study], places: Sequence[Path] = PLACES
) -> dict[str, Any]:
    """Every claim of a study and those under it, with what has been found.

    Args:
        name: of the study.
        studies: all there are.
        places: folders of studies, or folders with such folders in them; what is not there is
            passed over. Of two records of the same study on the same data, in the same size and
            setting and from the same first seed on, the later one counts.

    Returns:
        A record of plain values: title, source, the records that were found, and the rows.
    """
    members = family(name, studies)
    found = _latest(_records(places), {study.name for study in members})
    rows: list[dict[str, Any]] = []
    for study in members:
        of_study = [record for record in found if record["study"]["name"] == study.name]
        rows += _judged(study, of_study)
        judged = {claim["name"] for record in of_study for claim in record["claims"]}
        # a claim that is newer than the records is a row, too
        rows += [_row(study, describe(c)) for c in _planned(study) if c.name not in judged]
    head = studies[name]
    return {
        "name": name,
        "title": head.title,
        "source": head.source,
        "records": [_told(record) for record in found],
        "rows": rows,
    }


def _records(places: Iterable[Path]) -> Iterator[dict[str, Any]]:
    for place in places:
        if place.is_dir():
            beneath = (folder for folder in sorted(place.iterdir()) if folder.is_dir())
            for folder in (place, *beneath):
                if (folder / RESULTS).exists():
                    yield {**read_results(folder), "folder": folder.as_posix()}


def _latest(records: Iterable[dict[str, Any]], names: set[str]) -> list[dict[str, Any]]:
    kept: dict[tuple[Any, ...], dict[str, Any]] = {}
    for record in records:
        asked = record["asked"]
        key = tuple(
            str(value)
            for value in (
                record["study"]["name"],
                *(asked.get(part) for part in _APART),
            )
        )
        # a smoke size shows that everything works, nothing else
        if key[0] in names and asked["size"] != "smoke":
            before = kept.get(key)
            if before is None or _made(before) <= _made(record):
                kept[key] = record
    return list(kept.values())


def _made(record: Mapping[str, Any]) -> str:
    return str(record["provenance"]["time"])


def _judged(study: Study, records: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Claim by claim, what each record says of it; in the order of the first record."""
    names = dict.fromkeys(claim["name"] for record in records for claim in record["claims"])
    for name in names:
        for record in records:
            for claim in record["claims"]:
                if claim["name"] == name:
                    yield _row(study, claim, record)


def _row(
    study: Study, claim: Mapping[str, Any], record: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    row = {"study": study.name, **{name: claim[name] for name in _SHOWN}}
    if record is None:
        lost = {"verdict": NOT_RUN, "why": NOT_RUN, "n": 0, "setting": ""}
        return {**row, **lost, "estimate": None, "low": None, "high": None}
    result = {part: claim[part] for part in ("verdict", "why", "n", "estimate", "low", "high")}
    return {**row, **result, "setting": _setting(record)}


def _planned(study: Study) -> Sequence[Claim]:
    """The claims of a study as it is now; none where its data are not here."""
    try:
        return study.plan(study.choose()).claims
    except InputError:
        return ()


def _setting(record: Mapping[str, Any]) -> str:
    asked = record["asked"]
    data = str(asked["data"])
    kind, _, place = data.partition(":")
    parts = [f"{kind}:{Path(place).name}" if place else kind, asked["size"], asked["setting"]]
    if asked.get("exact"):
        parts.append("exact")
    if first := asked.get("seed"):
        parts.append(f"seed {first}" if len(asked["seeds"]) == 1 else f"seeds from {first} on")
    return ", ".join([*parts, *asked["overrides"]])


def _told(record: Mapping[str, Any]) -> dict[str, Any]:
    made = record["provenance"]
    return {
        "study": record["study"]["name"],
        "folder": record["folder"],
        "setting": _setting(record),
        "seeds": len(record["asked"]["seeds"]),
        "runs": len(record["runs"]),
        "commit": made["commit"],
        "judged": made.get("judged", {}).get("commit"),
        "time": made["time"],
        "hardware": made["gpu"] or f"{made['cpu']}, {made['cores']} cores",
    }
