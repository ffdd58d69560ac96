"""Names of the groups and columns of the study, and what a study of some data has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

STEP = "step"
TRAIN, TRAIN_ERROR = "train/loss", "train/error"
VALIDATION, VALIDATION_LOSS = "validation/error", "validation/loss"
ORACLE_WORST, ORACLE_PROBE = "balanced-validation/worst-group", "balanced-validation/probe-hard"
TEST, WORST = "test/error", "test/worst-group"
HARD, EASY = "probe/hard", "probe/easy"
HARD_DFR, HARD_STRONG = "probe-dfr/hard", "probe-strong/hard"
HARD_EFFECT, EASY_EFFECT = "effect/hard", "effect/easy"
SHARE, SHARE_HERE = "share/hard", "share-at-w/hard"
SHARPNESS = "lambda-max"

ALONE = "hard alone"
REDUNDANT = "redundant"
GIVEN = "as given"
"""The setting of data that were found: the only one that there is."""


@dataclass(frozen=True)
class Setting:
    """One way in which the simple feature goes with the label.

    Attributes:
        name: ``redundant``, ``spurious 0.99``, or ``as given`` for data that were found.
        data: the data set by name.
    """

    name: str
    data: str

    @property
    def spurious(self) -> bool:
        """Whether some examples show that the simple feature is not the label."""
        return self.name != REDUNDANT


@dataclass(frozen=True)
class Setup:
    """What a study of some data has.

    Attributes:
        kind: kind of the data, as ``digit-dominoes``.
        networks: name -> what it is, in words.
        settings: what is trained on.
        alone: the hard feature alone, or None where the data cannot be had so.
        over_time: whether probes were fitted over training; else at its end alone.
        test_images: how many there are: no error moves in smaller steps.
    """

    kind: str
    networks: Mapping[str, str]
    settings: tuple[Setting, ...]
    alone: Setting | None
    over_time: bool
    test_images: int

    @property
    def groups(self) -> list[str]:
        """All groups with a grid of ρ, network by network."""
        return [group_of(net, setting) for net in self.networks for setting in self.settings]


def group_of(network: str, setting: Setting) -> str:
    """The group of a network in a setting.

    >>> group_of("mlp", Setting("redundant", ""))
    'mlp, redundant'
    """
    return f"{network}, {setting.name}"
