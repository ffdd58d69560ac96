"""Effects on ranks of public checkpoints, one per architecture.

What pairs the runs is the architecture, so that it stands where other studies have the seed: an
interval is about what would be found for other architectures, trained and published likewise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

from lowland.studies.checkpoints.columns import CONVENTIONS, PLACE, PUBLISHED, USUAL, rank
from lowland.studies.checkpoints.published import (
    ARCHITECTURES,
    HALF,
    LAST,
    MIXER,
    RELEASED,
    SAM,
    SHARES,
    STANDARD,
    THREE_QUARTERS,
)
from lowland.studies.effects import relative_fall
from lowland.studies.runs import NotMeasuredError, Run, Runs
from lowland.studies.study import Effects, Finding

Pair = tuple[Run, Run]


def pairs(runs: Runs, places: Sequence[int]) -> dict[int, Pair]:
    """Both networks of each of these architectures, where both were measured.

    Raises:
        NotMeasuredError: there is no such architecture.
    """
    both = [set(runs.whole_seeds(group, (PLACE,))) for group in (STANDARD, SAM)]
    found = sorted(both[0] & both[1] & set(places))
    if not found:
        wanted = ", ".join(ARCHITECTURES[place].name for place in places)
        raise NotMeasuredError(f"no pair of checkpoints, standard and SAM, of {wanted}")
    return {i: (runs.run(STANDARD, PLACE, i), runs.run(SAM, PLACE, i)) for i in found}


def fall(runs: Runs, *, share: Fraction, places: Sequence[int], sign: int = 1) -> Finding:
    """sign · (1 - R(SAM) / R(standard)) after a share of the blocks."""
    found = pairs(runs, places)

    def effects(convention: str = USUAL, at: Fraction = share, token: str = "") -> Effects:
        return {
            i: sign * relative_fall(*ranks_of(pair, i, at, convention, token))
            for i, pair in found.items()
        }

    beside = {words: effects(c) for c, words in CONVENTIONS.items() if words}
    if MIXER in found:
        beside["first token of the Mixer"] = {
            **effects(),
            MIXER: sign * relative_fall(*ranks_of(found[MIXER], MIXER, share, USUAL, "class")),
        }
    if share in RELEASED:
        released = _where_there(lambda: effects(at=RELEASED[share]))
        beside[f"after {RELEASED[share]}, as released"] = released
        released = _where_there(lambda: effects(PUBLISHED, RELEASED[share]))
        beside[f"after {RELEASED[share]}, as released, published convention"] = released
    beside["the published numbers"] = {
        i: sign * relative_fall(*ARCHITECTURES[i].ranks[share]) for i in found
    }
    return Finding(
        effects=effects(),
        detail=_words(found, share),
        resolution=1 / max(ranks_of(pair, i, share)[0] for i, pair in found.items()),
        beside={name: values for name, values in beside.items() if values},
    )


def smallest_fall(runs: Runs) -> Finding:
    """The smallest of an architecture's falls, the Mixer's after 3/4 left out."""
    found = pairs(runs, range(len(ARCHITECTURES)))

    def shares(place: int) -> tuple[Fraction, ...]:
        return (LAST, HALF) if place == MIXER else SHARES

    def effects(convention: str) -> Effects:
        return {
            i: min(relative_fall(*ranks_of(pair, i, s, convention)) for s in shares(i))
            for i, pair in found.items()
        }

    published = {
        i: min(relative_fall(*ARCHITECTURES[i].ranks[s]) for s in shares(i)) for i in found
    }
    return Finding(
        effects=effects(USUAL),
        resolution=1 / max(ranks_of(pair, i, LAST)[0] for i, pair in found.items()),
        beside={
            **{words: effects(c) for c, words in CONVENTIONS.items() if words},
            "the published numbers": published,
        },
    )


def exception(runs: Runs) -> Finding:
    """The rise of the Mixer's rank after 3/4 of the blocks: one pair."""
    return fall(runs, share=THREE_QUARTERS, places=(MIXER,), sign=-1)


def ranks_of(
    pair: Pair, place: int, share: Fraction, convention: str = USUAL, token: str = ""
) -> tuple[float, float]:
    """The ranks of both networks of an architecture; by its own token unless told otherwise."""
    column = rank(share, token or ARCHITECTURES[place].token, convention)
    standard, sam = (run.final(column) for run in pair)
    return standard, sam


def _where_there(effects: Callable[[], Effects]) -> Effects:
    """Effects, or none where a network has no such block."""
    try:
        return effects()
    except NotMeasuredError:
        return {}


def _words(found: Mapping[int, Pair], share: Fraction) -> str:
    words = []
    for i, pair in found.items():
        standard, sam = ranks_of(pair, i, share)
        words.append(f"{ARCHITECTURES[i].name} {standard:.0f} → {sam:.0f}")
    return f"{', '.join(words)}."
