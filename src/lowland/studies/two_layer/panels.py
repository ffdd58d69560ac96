"""Figs. 5, 12 and 13 of the paper: losses, rank, units and norm over the iterations."""

from __future__ import annotations

from lowland.studies.study import Panel
from lowland.studies.two_layer.columns import (
    ACTIVE,
    DISTINCT,
    GRADIENT_NORM,
    ITERATION,
    NORM,
    RANK,
    SAM,
    TEST,
    TRAIN,
)

_ROWS = {
    "ReLU": (SAM["relu"], "Fig. 5"),
    "tanh": (SAM["tanh"], "Fig. 12"),
    "absolute value": (SAM["abs"], "Fig. 12"),
    "ReLU, gradient norm": (GRADIENT_NORM, "Fig. 13; ρ stands for λ"),
}
_COLUMNS = (
    ("Train loss", TRAIN, True),
    ("Test loss", TEST, True),
    ("Feature rank", RANK, False),
    ("Active units", ACTIVE, False),
    ("Distinct units", DISTINCT, False),
    ("Weight norm", NORM, True),
)


def panels() -> tuple[Panel, ...]:
    """Six quantities for three activations and the gradient norm."""
    return tuple(
        Panel(
            title=f"{title}: {activation}",
            column=column,
            group=group,
            log=log,
            note=f"{figure}; median over seeds, quartiles" if log else figure,
            median=log,
            x=ITERATION,
            log_x=True,
        )
        for activation, (group, figure) in _ROWS.items()
        for title, column, log in _COLUMNS
    )
