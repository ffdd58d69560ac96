"""What units that are never active have to do with the rank: effects, one per seed.

R is the rank and A the number of active units at the end; ρmax is the largest radius.
"""

from __future__ import annotations

import math
from statistics import median

from lowland.studies.effects import kendall, relative_fall
from lowland.studies.runs import Runs
from lowland.studies.study import Effects, Finding
from lowland.studies.two_layer.columns import (
    ACTIVE,
    GRADIENT_NORM,
    INACTIVE_NORM,
    RANK,
    SAM,
    UNIT_NORM,
)
from lowland.studies.two_layer.findings import fall, lost, one_step, ordered


def forced_fall(runs: Runs, group: str) -> Finding:
    """(R(0) - min(R(0), A(ρmax))) / (R(0) - R(ρmax)): the share of the fall that A alone forces.

    Features of so few active units cannot have a higher rank, whatever the units do. That rank and
    active units fall together (beside) is no sign of it: so they do where more units stay active
    than the rank ever was. 0 where the rank does not fall or a run diverged.
    """
    top = runs.rhos(group)[-1]
    effects = {}
    for seed in runs.seeds(group):
        before = runs.final(group, 0.0, seed, RANK)
        after, active = (runs.final(group, top, seed, column) for column in (RANK, ACTIVE))
        usable = all(map(math.isfinite, (before, after, active))) and after < before
        forced = before - min(before, max(active, after)) if usable else 0.0
        effects[seed] = forced / (before - after) if usable else 0.0
    ends = [runs.final(group, top, seed, ACTIVE) for seed in effects]
    units = [end if math.isfinite(end) else math.inf for end in ends]
    return Finding(
        effects=effects,
        detail=f"Active units at ρ = {top:g}, median: {median(units):g}." + lost(runs, group),
        resolution=one_step(runs, group, RANK),
        beside={"rank and active units fall together (Kendall's τ)": _together(runs, group)},
    )


def _together(runs: Runs, group: str) -> Effects:
    """τ over ρ of the number of active units and the rank at the end."""
    rhos = runs.rhos(group)
    return {
        seed: kendall(
            *(
                ordered([runs.final(group, rho, seed, column) for rho in rhos])
                for column in (ACTIVE, RANK)
            )
        )
        for seed in runs.seeds(group)
    }


def fewer_components(runs: Runs) -> Finding:
    """1 - R(ρmax) / A(ρmax); 0 where no unit is active or a run diverged."""
    group = SAM["relu"]
    top = runs.rhos(group)[-1]
    shares = {
        seed: relative_fall(*(runs.final(group, top, seed, column) for column in (ACTIVE, RANK)))
        for seed in runs.seeds(group)
    }
    return Finding(
        effects={seed: 0.0 if math.isnan(share) else share for seed, share in shares.items()},
        detail=lost(runs, group).strip(),
    )


def not_shrunk(runs: Runs) -> Finding:
    """Mean ‖w_j‖ of the units that are inactive in the end at ρmax, over that of all at the start.

    At most 1: weights that have grown are no more evidence than weights that are left. 0 where no
    unit is inactive or a run diverged.
    """
    group = SAM["relu"]
    rhos = runs.rhos(group)

    def left(rho: float) -> Effects:
        found = {}
        for seed in runs.seeds(group):
            run = runs.run(group, rho, seed)
            share = run.final(INACTIVE_NORM) / run.start(UNIT_NORM)
            found[seed] = min(1.0, share) if math.isfinite(share) else 0.0
        return found

    return Finding(
        effects=left(rhos[-1]),
        detail="A run without inactive units counts as 0." + lost(runs, group),
        beside={"in plain training": left(0.0)},
    )


def first_order(runs: Runs) -> Finding:
    """Fall of R by the largest λ over its fall by ρmax; 0 where SAM does not lower R."""

    def share(column: str) -> Effects:
        with_sam, alone = (
            fall(runs, group, column).effects for group in (SAM["relu"], GRADIENT_NORM)
        )
        return {
            s: alone[s] / with_sam[s] if with_sam[s] > 0 else 0.0 for s in alone if s in with_sam
        }

    return Finding(effects=share(RANK), beside={"of active units": share(ACTIVE)})
