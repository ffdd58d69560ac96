"""What is measured between two networks, block by block, on the same examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lowland import measure
from lowland.core.records import Measurement
from lowland.inspection.measuring import Prepared


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """An instrument of two sets of features of the same examples.

    Attributes:
        name: what it is called in tables.
        words: what it measures, in a line.
        measure: (features of A (n, d), features of B (n, e)) -> record.
    """

    name: str
    words: str
    measure: Callable[[Any, Any], Measurement]


COMPARISONS: dict[str, Comparison] = {}
"""Name -> what `lowland inspect A B` measures between the features of A and B: add yours here."""

if hasattr(measure, "cka"):
    COMPARISONS["cka"] = Comparison(
        name="cka",
        words="linear centred kernel alignment: 1 for features equal up to rotation and scale",
        measure=measure.cka,
    )


def compare_features(a: Prepared, b: Prepared) -> dict[str, dict[str, Measurement]]:
    """Block -> comparison -> record, for blocks that both networks have.

    Nothing if there are no comparisons. One block of each network is in memory at a time, for the
    price of a forward pass for each.
    """
    common = [name for name in a.blocks if name in b.blocks]
    found: dict[str, dict[str, Measurement]] = {}
    for name in common if COMPARISONS else ():
        one, other = (
            measure.capture(ready.subject.module, ready.inputs, name, **ready.capturing)[name]
            for ready in (a, b)
        )
        found[name] = {
            key: comparison.measure(one, other) for key, comparison in COMPARISONS.items()
        }
    return found
