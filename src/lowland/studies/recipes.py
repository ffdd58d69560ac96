"""What studies that train recipes have in common: settings that are the study's own, and a grid."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from lowland.core.errors import InputError, unknown

if TYPE_CHECKING:
    from lowland.studies.study import Choice
    from lowland.train import Recipe
    from lowland.train.stepped import Stepped

    Kind = TypeVar("Kind", bound=Stepped)

OPTIONS = {"data": "--data", "method": "--method", "rho": "--rho", "seed": "--seeds"}
"""Settings of a recipe that a study has options of its own for."""


def keys(choice: Choice) -> list[str]:
    """The names of what ``--set`` changes."""
    return [setting.partition("=")[0].strip() for setting in choice.overrides]


def own_settings(
    overrides: Sequence[str], known: Collection[str]
) -> tuple[dict[str, str], list[str]]:
    """What ``--set`` says to the study itself, and what is left for its recipes.

    Raises:
        InputError: a setting of the study's has no value.

    >>> own_settings(["examples=64", "epochs=3"], ["examples"])
    ({'examples': '64'}, ['epochs=3'])
    """
    own: dict[str, str] = {}
    rest = []
    for setting in overrides:
        key, equals, text = setting.partition("=")
        if key.strip() not in known:
            rest.append(setting)
        elif not (equals and text.strip()):
            raise InputError(f"setting {setting!r} has no value: write {key.strip()}=VALUE")
        else:
            own[key.strip()] = text.strip()
    return own, rest


def changed_sizes(
    of: str, sizes: Mapping[str, int], overrides: Sequence[str], *, least: int
) -> dict[str, int]:
    """Whole numbers of a study's own with ``key=value`` applied.

    Args:
        of: whose settings, for the message.
        sizes: by key.
        overrides: the changes.
        least: the smallest number that does.

    Raises:
        InputError: an unknown key, or no such number.

    >>> changed_sizes("the toys", {"steps": 100}, ["steps=5"], least=2)
    {'steps': 5}
    """
    changed = dict(sizes)
    for override in overrides:
        key, equals, text = override.partition("=")
        if key not in sizes:
            raise unknown(f"setting of {of}", key, sizes)
        if not equals or not text.strip().isdigit() or int(text) < least:
            raise InputError(f"--set {override}: give a whole number from {least} on, as {key}=100")
        changed[key] = int(text)
    return changed


def base_recipe(
    choice: Choice,
    values: Mapping[str, Any],
    *,
    fixed: Collection[str],
    overrides: Sequence[str] | None = None,
) -> Recipe:
    """What all runs have in common: the study's values with the caller's changes.

    Args:
        choice: what the caller chose.
        values: the study's own settings of the recipe.
        fixed: settings that the study sets itself.
        overrides: the changes, if not all of the choice's.

    Raises:
        InputError: a change to what has an option of its own, or what the study sets itself;
            otherwise as `Recipe.with_settings`.
    """
    from lowland.train import Recipe

    return base_of(Recipe, choice, values, fixed=fixed, overrides=overrides)


def base_of(
    kind: type[Kind],
    choice: Choice,
    values: Mapping[str, Any],
    *,
    fixed: Collection[str],
    overrides: Sequence[str] | None = None,
) -> Kind:
    """`base_recipe` for recipes of any kind."""
    changes = choice.overrides if overrides is None else overrides
    for key in (setting.partition("=")[0].strip() for setting in changes):
        if key in OPTIONS:
            raise InputError(f"--set {key}=... is not for a study: use {OPTIONS[key]}")
        if key in fixed:
            raise InputError(f"--set {key}=...: the study sets {key} itself: leave it out")
    return kind.from_mapping(
        {"data": choice.data, "method": choice.method, **values}
    ).with_settings(changes)


def at(base: Kind, method: str, rho: float, seed: int) -> Kind:
    """One point of a grid; ρ = 0 is the base optimizer alone, whatever the method."""
    from lowland.train.stepped import NO_METHOD

    if rho == 0 and not base.brings_base:
        return base.changed(method=NO_METHOD, rho=0.0, method_options=(), seed=seed)
    return base.changed(method=method, rho=rho, seed=seed)


def all_rhos(choice: Choice, usual: Sequence[float]) -> list[float]:
    """0 and what was chosen, or what is usual, ascending."""
    positive = usual if choice.rhos is None else choice.rhos
    return sorted({0.0, *map(float, positive)})
