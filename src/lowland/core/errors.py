"""Bad input, said in one line: what is wrong and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line that names what is wrong and what to do. The command line prints it
    without a traceback and exits with code 2.
    """


def unknown(kind: str, given: object, known: Iterable[str]) -> InputError:
    """An `InputError` for a name that does not exist, with the nearest one that does.

    >>> str(unknown("dataset", "digit", ["digits", "parquet"]))
    "unknown dataset 'digit': did you mean 'digits'? known: digits, parquet"
    """
    names = sorted(known)
    near = difflib.get_close_matches(str(given), names, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return InputError(f"unknown {kind} {str(given)!r}: {hint}known: {', '.join(names)}")
