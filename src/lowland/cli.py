"""The commands: parse, call, print.

A typed function is the command: its parameters are the options. Parsing and working are apart: a
command only returns its job, so that no library stands between the job and its errors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from lowland import __version__
from lowland.cli_inspect import inspect
from lowland.core.errors import InputError, unknown

if TYPE_CHECKING:
    from lowland.train import Launcher, Tracking

Job = Callable[[], int]
"""Does the work of a command and returns the exit code."""

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


@app.command()
def study(
    name: Annotated[str, typer.Argument(help="Name of a study, or `list` for all of them.")],
    size: Annotated[str, typer.Option(help="smoke, default or paper.")] = "default",
    data: Annotated[str, typer.Option(help="Data set: digits, fashion-mnist, parquet:PATH.")] = (
        "digits"
    ),
    setting: Annotated[
        str | None,
        typer.Option(help="A setting of the study, such as minimal or state-of-the-art."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="Method of the runs with ρ above 0; for `methods` some, with commas."),
    ] = None,
    rho: Annotated[str, typer.Option(help="Radii, such as 0.05,0.1; 0 is always added.")] = "",
    seeds: Annotated[int | None, typer.Option(help="Number of seeds.")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of every run."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the study. [default: runs/NAME-DATA-SIZE]")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Runs side by side. [default: one per core; with ray all that fit]"),
    ] = None,
    log: Annotated[
        str,
        typer.Option(
            metavar="TRACKER[:DIR]",
            help="Send metrics to tensorboard, csv, wandb or mlflow. [default DIR: OUT/logs]",
        ),
    ] = "",
    log_every: Annotated[int, typer.Option(help="Updates between two points.")] = 10,
    launcher: Annotated[
        str, typer.Option(help="local: processes here. ray: tasks on a Ray cluster.")
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(help="Ray cluster: auto, HOST:PORT. [default: a new one on this machine]"),
    ] = None,
    cpus_per_run: Annotated[
        float | None, typer.Option(help="Cores of a run on Ray. [default: 1]")
    ] = None,
    gpus_per_run: Annotated[
        float | None, typer.Option(help="GPUs of a run on Ray. [default: 0]")
    ] = None,
    retries: Annotated[
        int | None,
        typer.Option(help="Further tries of a run on Ray whose worker or node dies. [default: 3]"),
    ] = None,
) -> Job:
    """Run published claims again, over seeds, and judge them."""
    if name == "list":
        return _list
    changes = changes or []
    ray = {
        "address": address,
        "cpus_per_run": cpus_per_run,
        "gpus_per_run": gpus_per_run,
        "retries": retries,
    }
    return lambda: _study(
        name,
        size,
        data,
        setting,
        method,
        rho,
        seeds,
        changes,
        out=out,
        launcher=_launcher(launcher, workers, ray),
        log=log,
        log_every=log_every,
    )


app.command()(inspect)


@app.command()
def methods() -> Job:
    """List the sharpness-aware methods: source, passes, memory, what each needs."""
    return _methods


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a study or inspection.")],
) -> Job:
    """Show a study that has run, or an inspection, and write its report.html."""
    return lambda: _report(folder)


def _study(
    name: str,
    size: str,
    data: str,
    setting: str | None,
    method: str | None,
    rho: str,
    seeds: int | None,
    changes: Sequence[str],
    *,
    out: Path | None,
    launcher: Launcher,
    log: str,
    log_every: int,
) -> int:
    from lowland import studies
    from lowland.report import progress, terminal
    from lowland.report.shell import PAGE

    chosen = studies.get(name)
    choice = chosen.choose(
        size=size,
        data=data,
        setting=setting,
        method=method,
        rhos=studies.radii(rho),
        seeds=seeds,
        overrides=tuple(changes),
    )
    folder = out or studies.default_folder(chosen, choice)
    loggers = _tracking(log, folder, chosen.name)
    console = Console(stderr=True)
    with progress.shown(console) as tell:
        results = studies.execute(
            chosen,
            choice,
            folder,
            launcher=launcher,
            loggers=loggers,
            log_every=log_every,
            tell=_noting(console, tell),
        )
    terminal.show(results, folder / PAGE, Console())
    return 1 if results["failures"] else 0


def _launcher(name: str, workers: int | None, ray: Mapping[str, Any]) -> Launcher:
    """Where the runs shall happen; options of the one are not for the other."""
    from lowland.train import Local, RayCluster

    given = {key: value for key, value in ray.items() if value is not None}
    if name == "ray":
        return RayCluster(workers=workers, **given)
    if name != "local":
        raise unknown("launcher", name, ("local", "ray"))
    for key in given:
        option = f"--{key.replace('_', '-')}"
        raise InputError(f"{option} is for --launcher ray: add that, or leave {option} out")
    return Local() if workers is None else Local(workers=workers)


def _tracking(log: str, folder: Path, study: str) -> Tracking | None:
    from lowland.train import Tracking

    if not log:
        return None
    return Tracking.parse(log, default=folder / "logs", project=f"lowland-{study}")


def _noting(console: Console, tell: Callable[[Any], object]) -> Callable[[Any], None]:
    """`tell`, and what is to be read on a line of its own above the bar."""

    def told(status: Any) -> None:
        if status.note is not None:
            console.print(status.note, style="yellow", markup=False, highlight=False)
        tell(status)

    return told


def _list() -> int:
    from lowland import studies
    from lowland.report import terminal

    terminal.show_studies([study.describe() for study in studies.STUDIES.values()], Console())
    return 0


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


def _report(folder: Path) -> int:
    from lowland import inspection
    from lowland.report import inspection_page, inspection_terminal, terminal
    from lowland.report.page import write_page
    from lowland.report.results import read_results

    if (folder / inspection.RECORD).exists():
        record = inspection.read_record(folder)
        page = inspection_page.write_page(folder, record)
        inspection_terminal.show(record, Console(), page=page)
        return 0
    results = read_results(folder)
    terminal.show(results, write_page(folder, results), Console())
    return 0
