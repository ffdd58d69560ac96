"""The paper's Table 1 beside what was measured, and the networks that were measured."""

from __future__ import annotations

from fractions import Fraction

from lowland.studies.checkpoints.columns import DEPTHS, FACTS, PLACE, PUBLISHED, USUAL, rank
from lowland.studies.checkpoints.published import ARCHITECTURES, RELEASED, SAM, STANDARD
from lowland.studies.effects import relative_fall
from lowland.studies.runs import NotMeasuredError, Run, Runs
from lowland.studies.study import Sheet

_ROW_OF = {released: share for share, released in RELEASED.items()}
_WORDS = {STANDARD: "standard", SAM: "SAM"}


def tables(runs: Runs) -> list[Sheet]:
    """Both; what was not measured is a dash."""
    return [_ranks(runs), _networks(runs)]


def _ranks(runs: Runs) -> Sheet:
    rows: list[list[str | float | None]] = []
    for place, architecture in enumerate(ARCHITECTURES):
        for share in DEPTHS:
            row = _ROW_OF.get(share, share)
            published = architecture.ranks[row]
            column = [rank(share, architecture.token, c) for c in (USUAL, PUBLISHED)]
            found = {
                training: [_value(_run(runs, training, place), c) for c in column]
                for training in (STANDARD, SAM)
            }
            rows.append(
                [
                    architecture.name,
                    _after(share),
                    *published,
                    _change(*published),
                    *(found[training][0] for training in (STANDARD, SAM)),
                    _change(*(found[training][0] for training in (STANDARD, SAM))),
                    *(found[training][1] for training in (STANDARD, SAM)),
                ]
            )
    head = ["published standard", "published SAM", "change"]
    measured = ["standard", "SAM", "change"]
    return Sheet(
        title="Ranks of public networks (Table 1)",
        head=[
            "network",
            "after",
            *head,
            *measured,
            "standard, published convention",
            "SAM, published convention",
        ],
        rows=rows,
        note=(
            "The paper's rows are after 3/4 and 1/2 of the blocks; the released commands name "
            "blocks 16 and 8 of 24, which are 2/3 and 1/3: the published numbers stand at both. "
            "Class token of ViTs before the final LayerNorm, mean token of the Mixer."
        ),
    )


def _after(share: Fraction) -> str:
    if share in _ROW_OF:
        return f"{share} (released, for {_ROW_OF[share]})"
    return "last block" if share == 1 else f"{share} of the blocks"


def _networks(runs: Runs) -> Sheet:
    rows: list[list[str | float | None]] = []
    for place, architecture in enumerate(ARCHITECTURES):
        for training in (STANDARD, SAM):
            run = _run(runs, training, place)
            settings = {} if run is None else run.recipe.get("settings", {})
            facts = [_value(run, fact) for fact in FACTS]
            where = str(settings.get("checkpoint", "no data here"))
            rows.append([architecture.name, _WORDS[training], where, *facts])
    return Sheet(
        title="Networks",
        head=["network", "training", "from", "images", "pixels", "blocks", "width", "classes"],
        rows=rows,
        note="Pixels are the side of the images that the network takes.",
    )


def _run(runs: Runs, training: str, place: int) -> Run | None:
    there = place in runs.whole_seeds(training, (PLACE,))
    return runs.run(training, PLACE, place) if there else None


def _value(run: Run | None, column: str) -> int | None:
    try:
        return None if run is None else int(run.final(column))
    except NotMeasuredError:
        return None


def _change(standard: float | None, sam: float | None) -> str | None:
    if standard is None or sam is None:
        return None
    return f"{-relative_fall(standard, sam) or 0.0:+.0%}"
