"""Hyperparameters that make no sense, said in one line."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lowland.core.errors import InputError

OWN_PART = (
    "{0} fills in {1} itself, so {1}= contradicts it: leave that out, or compose the parts that "
    "you want by SharpnessAware(..., {1}=...)"
)
LOCAL_GRADIENT = (
    "perturbation='local' needs a method that uses the gradient at w for ε alone, and this one "
    "keeps it: it would differ between devices; use perturbation='global'"
)


def check_number(name: str, value: Any, *, least: float, otherwise: str = "") -> None:
    """Raise `InputError` unless `value` is a finite number, at least `least`.

    Args:
        name, value: what is looked at.
        least: the smallest value that it may have.
        otherwise: what may be given in its place.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and value >= least):
        bound = "" if least == -math.inf else f", at least {least:g}"
        instead = f", or {otherwise}" if otherwise else ""
        raise InputError(f"{name} is {value!r}: give a finite number{bound}{instead}")


def check_whole(name: str, value: Any, *, least: int) -> None:
    """Raise `InputError` unless `value` is a whole number, at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name} is {value!r}: give a whole number, at least {least}")


def one_of_each(init: Callable[..., None]) -> Callable[..., None]:
    """An ``__init__`` that says so in a line where a caller gives what the class fills in."""

    @functools.wraps(init)
    def checked(self: Any, *args: Any, **options: Any) -> None:
        try:
            init(self, *args, **options)
        except TypeError as error:
            given = re.search(r"multiple values for keyword argument '(\w+)'", str(error))
            if given is None or given[1] not in options:
                raise
            who = type(self).__name__
            raise InputError(OWN_PART.format(who, given[1])) from None

    return checked


def check_mode(who: str, options: Mapping[str, Any]) -> None:
    """Refuse ``bn_second="eval"`` where losses at w and beside it are compared."""
    if options.get("bn_second") == "eval":
        raise InputError(
            f"{who} compares losses at w and beside it, which bn_second='eval' computes in two "
            "modes: use 'frozen' or 'update'"
        )


def check_group(group: Mapping[str, Any]) -> None:
    """Say what is wrong with the hyperparameters of a parameter group.

    Raises:
        InputError: ρ is negative or not finite; start, end or every make no sense.
    """
    rho = group["rho"]
    if isinstance(rho, bool) or not isinstance(rho, int | float) or not 0 <= rho < math.inf:
        raise InputError(f"rho is {rho!r}: give a finite number that is not negative")
    start, end = group["start"], group["end"]
    check_whole("start", start, least=0)
    if end is not None:
        check_whole("end", end, least=0)
        if end < start:
            raise InputError(f"end is {end} and start {start}: give steps with start <= end")
    check_whole("every", group["every"], least=1)


def check_parts(plan: Any, perturbation: Any, *, kept_locally: bool) -> None:
    """Say which parts of a method do not go together.

    Args:
        plan, perturbation: what the method is made of.
        kept_locally: whether each device remembers the gradient that makes its own ε.

    Raises:
        InputError: that is the case, or the plan refuses the perturbation.
    """
    if (check := getattr(plan, "check", None)) is not None:
        check(perturbation)
    if kept_locally:
        raise InputError(LOCAL_GRADIENT)


def check_common(groups: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    """Raise `InputError` if a hyperparameter of the whole step differs between groups."""
    for name in names:
        values = {repr(group.get(name)) for group in groups}
        if len(values) > 1:
            raise InputError(
                f"parameter groups differ in {name} ({', '.join(sorted(values))}), which belongs "
                "to the step as a whole: give it once, to the optimizer"
            )
