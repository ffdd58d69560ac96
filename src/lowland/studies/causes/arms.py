"""The arms of the study of causes: one change each to plain training of one of two networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

RESNET = "resnet"
MLP = "mlp"
NETWORKS: Mapping[str, Mapping[str, Any]] = {
    RESNET: {"model": "preact-resnet-small", "width": 8},
    MLP: {"model": "mlp", "width": 128, "depth": 3},
}
"""A residual network with BatchNorm, and a fully connected one without any: BatchNorm undoes a
scale of the weights, so that small initialisation means something in the second alone."""

DECAY = "weight decay"
STEP = "large step size"
NOISE = "label noise"
DEPTH = "depth"
INIT = "small initialisation"
AUGMENT = "augmentation"
SAM = "sam"
FEW, MANY = "few classes", "many classes"


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One arm.

    Attributes:
        group: its name in the results.
        network: `RESNET` or `MLP`.
        cause: what is changed; empty for plain training.
        level: by how much, in words; levels of a cause are in order, the strongest last.
        changes: settings of the recipe.
        rhos: its ρ; ``"all"`` for every one, ``"ends"`` for 0 and the largest, or ``"plain"``.
    """

    group: str
    network: str = RESNET
    cause: str = ""
    level: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)
    rhos: str = "plain"


def _arm(network: str, cause: str, level: str, rhos: str = "plain", **changes: Any) -> Arm:
    group = f"{network}, {cause} {level}".rstrip()
    return Arm(group=group, network=network, cause=cause, level=level, changes=changes, rhos=rhos)


def arms(lr: float, few: tuple[int, ...]) -> tuple[Arm, ...]:
    """All arms, by the learning rate of plain training and the few classes of the last pair.

    Levels were chosen on seeds from 1000 on, as large as still trains.
    """
    return (
        Arm(group=RESNET, rhos="all"),
        *(_arm(RESNET, DECAY, f"{d:g}", weight_decay=d) for d in (2e-3, 1.5e-2)),
        _arm(RESNET, DECAY, "0.005", "ends", weight_decay=5e-3),
        *(_arm(RESNET, STEP, f"x{k}", lr=k * lr) for k in (2, 5)),
        *(_arm(RESNET, NOISE, f"{p:g}", label_noise=p) for p in (0.05, 0.2)),
        *(_arm(RESNET, DEPTH, f"{d} blocks", depth=d) for d in (2, 3)),
        _arm(RESNET, AUGMENT, "", "ends", augment=True),
        Arm(group=MLP, network=MLP, rhos="ends"),
        *(_arm(MLP, DECAY, f"{d:g}", weight_decay=d) for d in (3e-3, 1.5e-2)),
        *(_arm(MLP, INIT, f"x{k:g}", init_scale=k) for k in (0.7, 0.5)),
        _arm(RESNET, FEW, "", "ends", labels=few),
        _arm(RESNET, MANY, "", "ends"),
    )


def of_cause(network: str, cause: str, all_arms: tuple[Arm, ...]) -> list[Arm]:
    """The arms of one cause, the weakest first."""
    found = [arm for arm in all_arms if (arm.network, arm.cause) == (network, cause)]
    return sorted(found, key=_strength)


def _strength(arm: Arm) -> float:
    values = [v for v in arm.changes.values() if isinstance(v, int | float)]
    value = float(values[0]) if values else 0.0
    return -value if arm.cause == INIT else value
