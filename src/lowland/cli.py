"""The commands: parse, call, print.

A typed function is the command: its parameters are the options. Parsing and working are apart: a
command only returns its job, so that no library stands between the job and its errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from lowland import __version__
from lowland.cli_compress import compress
from lowland.cli_inspect import inspect
from lowland.cli_study import Job, study
from lowland.core.errors import InputError, unknown

UsageError: Any = typer.BadParameter.__mro__[1]
"""What the parser raises; its home differs between versions of typer."""

app = typer.Typer(
    help="Sharpness-aware training in PyTorch, and studies that end in a verdict.",
    add_completion=False,
    rich_markup_mode=None,
)


def run(arguments: Sequence[str]) -> int:
    """Parse the command line and do what it says.

    Returns:
        The exit code.

    Raises:
        InputError: the command line, or what it names, cannot be used.
    """
    command: Any = typer.main.get_command(app)
    words = [word for word in arguments if not word.startswith("-")]
    if words and words[0] not in command.commands:
        raise unknown("command", words[0], command.commands)
    try:
        job = command.main(list(arguments), prog_name="lowland", standalone_mode=False)
    except UsageError as error:
        raise _said(error) from None
    return job() if callable(job) else int(job or 0)


def _said(error: Any) -> InputError:
    """The parser's complaint in one line, with the nearest option where one is unknown."""
    if hasattr(error, "possibilities"):
        return unknown("option", error.option_name, _names(error.ctx))
    message = " ".join(error.format_message().split()).rstrip(".")
    command = error.ctx.command_path if error.ctx else "lowland"
    return InputError(f"{message}: see `{command} --help`")


def _names(context: Any) -> list[str]:
    options = [option for parameter in context.command.params for option in parameter.opts]
    return ["--help", *(option for option in options if option.startswith("--"))]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lowland {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


app.command()(study)
app.command()(inspect)
app.command()(compress)


@app.command()
def methods() -> Job:
    """List the sharpness-aware methods: source, passes, memory, what each needs."""
    return _methods


@app.command()
def report(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of a study, inspection or compression.")
    ],
    judge: Annotated[
        bool,
        typer.Option(
            "--judge", help="Judge a study's runs again by today's claims; nothing is trained."
        ),
    ] = False,
) -> Job:
    """Show a study that has run or an inspection, with its report.html, or a compression."""
    return lambda: _report(folder, judge=judge)


def _methods() -> int:
    from lowland.optim import METHODS
    from lowland.report import terminal

    rows = [
        {
            "name": m.name,
            "kind": m.kind,
            "source": m.source,
            "passes": m.passes,
            "extra memory": m.memory,
            "needs": m.needs,
        }
        for m in METHODS.values()
    ]
    terminal.show_methods(rows, Console())
    return 0


def _report(folder: Path, *, judge: bool) -> int:
    from lowland import embeddings, inspection
    from lowland.report import compression, inspection_page, inspection_terminal, terminal
    from lowland.report.page import write_page
    from lowland.report.results import read_results

    if judge:
        from lowland.studies import STUDIES
        from lowland.studies.again import judge_again

        judge_again(folder, STUDIES)
    if (folder / inspection.RECORD).exists():
        record = inspection.read_record(folder)
        page = inspection_page.write_page(folder, record)
        inspection_terminal.show(record, Console(), page=page)
        return 0
    if (folder / embeddings.RECORD).exists():
        compression.show(embeddings.read_record(folder), folder, Console())
        return 0
    results = read_results(folder)
    terminal.show(results, write_page(folder, results), Console())
    return 0
