"""Names of the groups and columns of the study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lowland.studies.mechanism.arms import IMPORTANCE, LSAM, RATE, SGD

STEP = "step"
TRAIN, VALIDATION, VALIDATION_LOSS = "train/loss", "validation/error", "validation/loss"
HARD, EASY, WORST = "probe/hard", "probe/easy", "test/worst-group"
GINI, GINI_PHANTOM = "gini", "gini-phantom"
HEAD, HEAD_PHANTOM = "head-share/hard", "head-share-phantom/hard"
RATIO = "log-ratio-shift"
CORNER_SGD, CORNER_LSAM = "corner/sgd", "corner/lsam"
LORENZ, LORENZ_PHANTOM = "lorenz", "lorenz-phantom"
ALONE = "toy, hard alone"
"""The group of plain training on the toy's hard feature alone, which is the same at every
correlation."""

POINTS = 21
"""Points of the Lorenz curves."""

TRAINED = (IMPORTANCE, RATE, LSAM)
"""The arms that have a radius; SGD is ρ = 0 of each."""

WORDS: Mapping[str, str] = {
    SGD: "plain SGD",
    IMPORTANCE: "importance weighting alone",
    RATE: "learning-rate scaling alone",
    LSAM: "last-layer SAM",
}


@dataclass(frozen=True)
class Place:
    """Where the arms are trained.

    Attributes:
        name: ``toy, redundant``, and so on.
        network: ``toy``, ``mlp`` or ``cnn``.
        correlation: of the simple feature with the label.
        words: what it is.
        test: test examples: no error moves in smaller steps.
    """

    name: str
    network: str
    correlation: float
    words: str
    test: int

    @property
    def sam(self) -> str:
        """The group of SAM on all parameters."""
        return f"{self.name}, sam"


def of(arm: str, column: str) -> str:
    """The column of an arm.

    >>> of("lsam", "probe/hard")
    'lsam/probe/hard'
    """
    return f"{arm}/{column}"


def lorenz_column(column: str, point: int) -> str:
    """The column of a point of a Lorenz curve."""
    return f"{column}/{point}"
