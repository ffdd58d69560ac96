"""The two grids of the image-text study: text encoder fine-tuned, and frozen."""

from __future__ import annotations

from functools import partial

from lowland.core.errors import unknown
from lowland.studies.contrastive.claims import claims
from lowland.studies.contrastive.columns import FROZEN, GROUPS
from lowland.studies.contrastive.drawings import figures, panels, tables
from lowland.studies.contrastive.recipes import measured, notes, pairs_of, recipe_of
from lowland.studies.recipes import all_rhos, at, own_settings
from lowland.studies.study import Choice, Plan, Planned, grid

_SEEDS = {"smoke": 2, "default": 8, "paper": 3}
_RHOS = {
    "smoke": (0.1,),
    "default": (0.02, 0.05, 0.1),
    "paper": (0.1, 0.2, 0.25, 0.3),
}


def plan(choice: Choice) -> Plan:
    """Lay out both grids on the data that was chosen. ``--set groups=frozen`` leaves one out.

    Raises:
        InputError: unknown names or unusable values, or data that do not fit.
    """
    own, rest = own_settings(choice.overrides, ("groups",))
    asked = _groups(own["groups"]) if "groups" in own else GROUPS
    recipe = recipe_of(choice, overrides=rest)
    data = pairs_of(recipe)
    what = measured(recipe, data)
    groups = {group: recipe.changed(freeze_text=group == FROZEN) for group in asked}
    rhos = all_rhos(choice, _RHOS[choice.size])
    runs = [
        Planned(group=group, recipe=at(base, choice.method, rho, seed))
        for group, base in groups.items()
        for rho, seed in grid(rhos, choice.seed_range(_SEEDS[choice.size]))
    ]
    return Plan(
        runs=tuple(runs),
        claims=claims(what, asked),
        panels=panels(what, asked),
        fingerprint=data.fingerprint,
        notes=notes(choice, recipe, data),
        figures=figures,
        tables=partial(tables, what=what),
    )


def _groups(text: str) -> tuple[str, ...]:
    """Groups from text such as ``"frozen"``, in the order of `GROUPS`.

    Raises:
        InputError: there is no such group.
    """
    names = [part.strip() for part in text.split(",") if part.strip()]
    for name in names or [text]:
        if name not in GROUPS:
            raise unknown("group", name, GROUPS)
    return tuple(group for group in GROUPS if group in names)
