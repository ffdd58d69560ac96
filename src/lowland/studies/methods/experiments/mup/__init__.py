"""Do learning rate and radius carry over between widths under muP², and not under SAM as usual?

Haas et al. 2024 (arXiv 2411.00075). A network of two hidden tanh layers on the first digits, with
40% of their labels drawn anew, so that both learning rate and ρ have an optimum inside a short
grid. Each experiment trains one network per place of a cross: all learning rates at the middle ρ,
and all ρ at the middle learning rate. The middle was chosen at base width, on seeds from 1000 on,
so that both optima lie near it there. At base width both parametrisations are one and the same.

    standard    weights N(0, gain²/fan-in), last layer N(0, 1/fan-in); one learning rate; SAM
    muP²        last layer N(0, base width/fan-in²); η·k, η, η/k as `mup_groups` has it; MuP2

How far ε reaches is measured as `coordinate_check` does: the root mean square by which a layer's
own output changes at w+ε, its input being that of the network at w. Under the standard
parametrisation with one ρ the last layer's grows with the width while the others' stay or fall;
where ρ is made smaller so that the last layer's stays, theirs vanish. So theirs are taken relative
to the last layer's there.
"""

from __future__ import annotations

from collections.abc import Sequence

from lowland.studies.methods.experiments.mup.claims import claims
from lowland.studies.methods.experiments.mup.findings import MUP2, STANDARD, WIDTHS, group
from lowland.studies.methods.experiments.mup.sweep import BASE, RHO
from lowland.studies.study import Planned
from lowland.train import Experiment

_SIZES = {
    "smoke": {"reach": 1, "steps": 2, "examples": 32, "batch_size": 16},
    "default": {"reach": 2, "steps": 100, "examples": 160, "batch_size": 32},
    "paper": {"reach": 4, "steps": 200, "examples": 160, "batch_size": 32},
}


def planned(size: str, seeds: Sequence[int]) -> list[Planned]:
    """A sweep per parametrisation, width and seed; at base width one run stands for both."""
    return [
        Planned(group=group(kind, width), recipe=_experiment(kind, width, size, seed))
        for seed in seeds
        for kind in (STANDARD, MUP2)
        for width in WIDTHS[size]
    ]


def _experiment(kind: str, width: int, size: str, seed: int) -> Experiment:
    scaled = kind == MUP2 and width != BASE
    settings = {**_SIZES[size], "width": width, "scaled": scaled}
    function = f"{__name__}.sweep:sweep"
    return Experiment(function=function, settings=settings, method=kind, rho=RHO, seed=seed)


__all__ = ["claims", "planned"]
