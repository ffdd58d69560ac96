"""The claims of the study, with their thresholds, fixed before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from lowland.studies.domains import columns, findings
from lowland.studies.study import Claim
from lowland.studies.verdict import AtLeast

POINT = 0.01

ABSTRACT = "abstract"
NOT_HERE = "not published here: only the abstract is at hand"
SHAPE = f"shape: beneficial out of distribution, DomainBed among the data; {NOT_HERE}"

_CHOSEN = "ρ chosen for each domain by the error on the training domains of the other seeds"
_REASON = "One point: what methods on DomainBed are told apart by."


def claims(kinds: Mapping[str, Sequence[str]]) -> tuple[Claim, ...]:
    """Every claim for every kind of domains.

    Args:
        kinds: words for the data -> the groups of runs, one for each domain left out.
    """
    return tuple(c for kind, groups in kinds.items() for c in _claims(kind, groups))


def _claims(kind: str, groups: Sequence[str]) -> tuple[Claim, ...]:
    gain = partial(findings.gain, groups=groups)
    return (
        Claim(
            name=f"{kind}-unseen",
            sentence=f"SAM lowers the error on a domain that training has not seen ({kind}).",
            source=ABSTRACT,
            published=SHAPE,
            effect=f"error on the domain left out, plain minus SAM, mean over domains; {_CHOSEN}",
            unit="points",
            rule=AtLeast(POINT),
            reason=_REASON,
            find=partial(gain, column=columns.OUTSIDE),
        ),
        Claim(
            name=f"{kind}-more-outside",
            sentence=f"It gains more outside the training domains than inside ({kind}).",
            source=ABSTRACT,
            published=f"an orthogonal effect that is beneficial out of distribution; {NOT_HERE}",
            effect=(
                "gain on the domain left out minus gain on held-out images of the others, mean "
                f"over domains; {_CHOSEN}"
            ),
            unit="points",
            rule=AtLeast(POINT),
            reason=_REASON,
            find=partial(findings.more_outside, groups=groups),
        ),
        Claim(
            name=f"{kind}-retrained",
            sentence=f"SAM's features are better with a last layer trained again ({kind}).",
            source=ABSTRACT,
            published=f"shape: SAM improves the quality of features; {NOT_HERE}",
            effect=(
                "error on the domain left out after last-layer retraining on held-out images with "
                f"groups equally, plain minus SAM, mean over domains; {_CHOSEN}"
            ),
            unit="points",
            rule=AtLeast(POINT),
            reason=_REASON,
            find=partial(gain, column=columns.RETRAINED),
        ),
        Claim(
            name=f"{kind}-read-off",
            sentence=f"More of the unseen domain can be read off SAM's features ({kind}).",
            source=ABSTRACT,
            published=f"shape: SAM improves the quality of features; {NOT_HERE}",
            effect=(
                "error on half of the domain left out of a last layer fitted to the other half, "
                f"plain minus SAM, mean over domains; {_CHOSEN}"
            ),
            unit="points",
            rule=AtLeast(POINT),
            reason=_REASON,
            find=partial(gain, column=columns.READ_OFF),
        ),
        Claim(
            name=f"{kind}-retraining-suffices",
            sentence=f"Training the last layer again helps plain training already ({kind}).",
            source="Kirichenko et al., arXiv 2204.02937",
            published="shape: last-layer retraining suffices where features are spurious",
            effect=(
                "error of plain training on the domain left out, before minus after last-layer "
                "retraining, mean over domains"
            ),
            unit="points",
            rule=AtLeast(POINT),
            reason=_REASON,
            find=partial(findings.retraining, groups=groups),
        ),
    )
