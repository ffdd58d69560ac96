"""The grid of the bottleneck study: widths at ρ = 0, and ρ without bottleneck."""

from __future__ import annotations

from functools import partial

from lowland.core.errors import InputError
from lowland.studies.bottleneck.claims import claims
from lowland.studies.bottleneck.columns import SAM, bottleneck
from lowland.studies.bottleneck.drawings import figures, panels, tables
from lowland.studies.bottleneck.findings import Setup
from lowland.studies.contrastive.recipes import measured, notes, pairs_of, recipe_of
from lowland.studies.recipes import all_rhos, at, own_settings
from lowland.studies.study import Choice, Plan, Planned

_SEEDS = {"smoke": 2, "default": 8, "paper": 3}
_RHOS = {"smoke": (0.1,), "default": (0.02, 0.05, 0.1), "paper": (0.1, 0.2, 0.25, 0.3)}
_WIDTHS = {
    "smoke": (2, 8),
    "default": (8, 16, 32),
    "paper": (16, 32, 64, 128, 256),
}


def plan(choice: Choice) -> Plan:
    """Lay out the grid on the data that was chosen. ``--set widths=4,8`` gives other widths.

    Raises:
        InputError: unknown names or unusable values, or data that do not fit.
    """
    own, rest = own_settings(choice.overrides, ("widths",))
    recipe = recipe_of(choice, overrides=rest)
    data = pairs_of(recipe)
    setup = Setup(
        what=measured(recipe, data),
        widths=_widths(own["widths"]) if "widths" in own else _WIDTHS[choice.size],
    )
    rhos = all_rhos(choice, _RHOS[choice.size])
    runs = []
    for seed in choice.seed_range(_SEEDS[choice.size]):
        runs += [Planned(group=SAM, recipe=at(recipe, choice.method, rho, seed)) for rho in rhos]
        runs += [
            Planned(
                group=bottleneck(width),
                recipe=at(recipe.changed(bottleneck=width), choice.method, 0.0, seed),
            )
            for width in setup.widths
        ]
    return Plan(
        runs=tuple(runs),
        claims=claims(setup),
        panels=panels(setup),
        fingerprint=data.fingerprint,
        notes=(
            *notes(choice, recipe, data),
            "A bottleneck of width h is W = UV in the head of both towers, without anything "
            "between; the bias stays. Widths are chosen on validation data, by the mean error of "
            "both ways.",
        ),
        figures=partial(figures, setup=setup),
        tables=partial(tables, setup=setup),
    )


def _widths(text: str) -> tuple[int, ...]:
    """Widths from text such as ``"4,8,16"``.

    Raises:
        InputError: something in it is no whole number above 0.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise InputError(f"widths must be whole numbers from 1 such as 4,8,16, not {text!r}")
    return tuple(sorted({int(part) for part in parts}))
