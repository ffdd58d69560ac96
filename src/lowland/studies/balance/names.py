"""Names of data sets at the settings of the study."""

from __future__ import annotations

from lowland.core.errors import InputError


def with_settings(data: str, **values: str) -> str:
    """The name of a data set with further settings.

    Raises:
        InputError: it has one of those that the study sets.

    >>> with_settings("digit-dominoes:hard=3-8", correlation="1")
    'digit-dominoes:hard=3-8,correlation=1'
    """
    kind, _, rest = data.partition(":")
    parts = [part for part in rest.split(",") if part]
    for key in ("correlation", "easy"):
        if any(part.partition("=")[0].strip() == key for part in parts):
            raise InputError(f"--data {data}: the study sets {key} itself: leave it out")
    return f"{kind}:{','.join([*parts, *(f'{key}={value}' for key, value in values.items())])}"
