"""The two grids of the image-text study: text encoder fine-tuned, and frozen."""

from __future__ import annotations

from functools import partial

from lowland.studies.contrastive.claims import claims
from lowland.studies.contrastive.columns import FROZEN, TUNED
from lowland.studies.contrastive.drawings import figures, panels, tables
from lowland.studies.contrastive.recipes import measured, notes, pairs_of, recipe_of
from lowland.studies.recipes import all_rhos, at
from lowland.studies.study import Choice, Plan, Planned, grid

_SEEDS = {"smoke": 2, "default": 8, "paper": 3}
_RHOS = {
    "smoke": (0.1,),
    "default": (0.02, 0.05, 0.1),
    "paper": (0.1, 0.2, 0.25, 0.3),
}


def plan(choice: Choice) -> Plan:
    """Lay out both grids on the data that was chosen.

    Raises:
        InputError: unknown names or unusable values, or data that do not fit.
    """
    recipe = recipe_of(choice)
    data = pairs_of(recipe)
    what = measured(recipe, data)
    groups = {TUNED: recipe, FROZEN: recipe.changed(freeze_text=True)}
    rhos = all_rhos(choice, _RHOS[choice.size])
    runs = [
        Planned(group=group, recipe=at(base, choice.method, rho, seed))
        for group, base in groups.items()
        for rho, seed in grid(rhos, choice.seed_range(_SEEDS[choice.size]))
    ]
    return Plan(
        runs=tuple(runs),
        claims=claims(what),
        panels=panels(what),
        fingerprint=data.fingerprint,
        notes=notes(choice, recipe, data),
        figures=figures,
        tables=partial(tables, what=what),
    )
