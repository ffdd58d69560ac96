"""The heat maps of matrix sensing."""

from __future__ import annotations

from lowland.studies.effects import mean
from lowland.studies.runs import NotMeasuredError, Runs
from lowland.studies.study import HeatMap
from lowland.studies.toys.columns import SENSING, SENSING_RATES
from lowland.studies.toys.sensing import RECOVERED

NAMES = {"usam": "USAM", "sam": "SAM"}


def recovered(runs: Runs, form: str) -> HeatMap:
    """The share of draws of which a form has found the matrix, by η and ρ.

    Raises:
        NotMeasuredError: the runs are missing.
    """
    rhos = runs.radii(SENSING)
    seeds = runs.whole_seeds(SENSING, rhos)
    if not seeds:
        raise NotMeasuredError(f"the {SENSING} runs are missing")

    def share(rho: float, lr: float) -> float:
        return mean([runs.final(SENSING, rho, s, f"{form}/{lr:g}") < RECOVERED for s in seeds])

    return HeatMap(
        title=f"Matrix sensing: where {NAMES[form]} finds the matrix",
        columns=[f"{rho:g}" for rho in rhos],
        rows=[f"{lr:g}" for lr in SENSING_RATES],
        column_title="ρ",
        row_title="step size",
        values=[[share(rho, lr) for rho in rhos] for lr in SENSING_RATES],
        value_title=f"draws with a relative error below {RECOVERED:g}",
        percent=True,
        note="ρ = 0 is gradient descent. From a small start: at U = 0 there is a saddle. USAM's ρ "
        "is of another scale than SAM's: shapes can be compared, places cannot.",
    )
