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


def one_line(error: BaseException, limit: int = 200) -> str:
    """The first line of what an error says, not too long."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    if isinstance(error, KeyError):  # its words are the key alone
        text = f"KeyError: {text}"
    if "TorchScript interpreter" in text:  # what went wrong comes at the end there
        text = lines[-1]
    return text if len(text) <= limit else text[: limit - 3] + "..."
