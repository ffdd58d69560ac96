"""``lowland`` and ``python -m lowland``: run a command, and say what went wrong in one line."""

from __future__ import annotations

import sys
from collections.abc import Sequence

BAD_INPUT = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells have it

_EXTRA = (
    "lightning_fabric",
    "PIL",
    "plotly",
    "pyarrow",
    "rich",
    "safetensors",
    "sklearn",
    "typer",
)
"""What the `study` extra installs, by the names that are imported."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        arguments: the words after ``lowland``; those of this process if None.

    Returns:
        The exit code: 0; 1 if a run failed; 2 for bad input, with one line that says what to do;
        130 after Ctrl-C.
    """
    try:
        from lowland.core.errors import InputError
    except KeyboardInterrupt:
        return _interrupted()
    try:
        from lowland import cli

        return cli.run(sys.argv[1:] if arguments is None else arguments)
    except InputError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRA:
            raise
        return _fail(f'this needs {missing}, which is not installed: pip install "lowland[study]"')
    except KeyboardInterrupt:
        return _interrupted()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        sys.stdout = None  # nothing is flushed into it at exit
        return 1


def _fail(message: str) -> int:
    print(f"lowland: error: {' '.join(message.split())}", file=sys.stderr)
    return BAD_INPUT


def _interrupted() -> int:
    print(
        "lowland: interrupted: everything finished is kept; the same command goes on from here",
        file=sys.stderr,
    )
    return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
