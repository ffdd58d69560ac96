"""The command `lowland study`: parse, call, print."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from lowland.core.errors import InputError, unknown

if TYPE_CHECKING:
    from lowland.train import Launcher, Tracking

Job = Callable[[], int]
"""Does the work of a command and returns the exit code."""


def study(
    name: Annotated[str, typer.Argument(help="Name of a study, or `list` for all of them.")],
    size: Annotated[str, typer.Option(help="smoke, default or paper.")] = "default",
    data: Annotated[
        str | None,
        typer.Option(
            help="Data set: digits, npz:PATH, parquet:PATH, imagefolder:PATH, hf:NAME, "
            "waterbirds:PATH and others (docs/data.md). [default: the study's own]"
        ),
    ] = None,
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
    seed: Annotated[
        int | None, typer.Option(help="The first seed, and the only one without --seeds.")
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="By the published conventions, where a study has them.")
    ] = False,
    every: Annotated[
        bool, typer.Option("--all", help="This study and all under it, such as low-rank/relu.")
    ] = False,
    claims: Annotated[
        bool,
        typer.Option(
            "--claims", help="Run nothing: show every claim with the verdicts found so far."
        ),
    ] = False,
    write: Annotated[
        Path | None, typer.Option(help="With --claims: write the table to FILE.md or FILE.html.")
    ] = None,
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
    chosen: dict[str, Any] = {
        "data": data,
        "setting": setting,
        "method": method,
        "rho": rho,
        "seed": seed,
        "exact": exact,
        "set": changes or [],
    }
    if claims or write is not None:
        return lambda: _claims(name, out, write)
    ray = {
        "address": address,
        "cpus_per_run": cpus_per_run,
        "gpus_per_run": gpus_per_run,
        "retries": retries,
    }
    how = {"workers": workers, "launcher": launcher, "ray": ray, "log": log, "log_every": log_every}
    if every:
        return lambda: _all(name, {"size": size, "seeds": seeds}, chosen, out, how)
    return lambda: _one(name, {"size": size, "seeds": seeds, **chosen}, out, how)


def _one(name: str, asked: Mapping[str, Any], out: Path | None, how: Mapping[str, Any]) -> int:
    """Run one study and show what it found."""
    from lowland import studies
    from lowland.report import progress, terminal
    from lowland.report.shell import PAGE

    study = studies.get(name)
    choice = study.choose(
        size=asked["size"],
        data=asked.get("data"),
        setting=asked.get("setting"),
        method=asked.get("method"),
        rhos=studies.radii(asked.get("rho", "")),
        seeds=asked["seeds"],
        seed=asked.get("seed"),
        exact=asked.get("exact", False),
        overrides=tuple(asked.get("set", ())),
    )
    folder = out or studies.default_folder(study, choice)
    launcher = _launcher(how["launcher"], how["workers"], how["ray"])
    loggers = _tracking(how["log"], folder, study.name)
    console = Console(stderr=True)
    with progress.shown(console) as tell:
        results = studies.execute(
            study,
            choice,
            folder,
            launcher=launcher,
            loggers=loggers,
            log_every=how["log_every"],
            tell=_noting(console, tell),
        )
    terminal.show(results, folder / PAGE, Console())
    return 1 if results["failures"] else 0


def _all(
    name: str,
    asked: Mapping[str, Any],
    chosen: Mapping[str, Any],
    out: Path | None,
    how: Mapping[str, Any],
) -> int:
    """Run a study and all under it, one after the other, and show the table of all verdicts.

    One that cannot be run does not keep the others from running.
    """
    from lowland import studies
    from lowland.report import claims

    for option, value in chosen.items():
        if value:
            raise InputError(f"--{option} is for one study: leave it out with --all")
    studies.get(name)
    root, worst, lost = out or Path("runs"), 0, []
    for study in studies.family(name, studies.STUDIES):
        folder = root / studies.default_folder(study, study.choose(**asked)).name
        try:
            worst = max(worst, _one(study.name, asked, folder, how))
        except InputError as error:
            lost.append(f"{study.name}: {error}")
    console = Console()
    table = studies.claims_table(name, studies.STUDIES, [root])
    console.print()
    claims.show_claims(table, console)
    where = claims.write_claims(table, root / f"{name.replace('/', '-')}-claims.html")
    for words in lost:
        console.print(words, style="red", markup=False, highlight=False)
    console.print(f"all verdicts: {where}", markup=False, highlight=False, soft_wrap=True)
    return 1 if lost else worst


def _claims(name: str, out: Path | None, write: Path | None) -> int:
    """Show every claim of a study and of those under it, with what has been found."""
    from lowland import studies
    from lowland.report import claims

    studies.get(name)
    if out is not None and not out.is_dir():
        raise InputError(f"{out} is not a folder: give one with studies in it, or leave --out out")
    places = studies.PLACES if out is None else [out]
    table = studies.claims_table(name, studies.STUDIES, places)
    if write is not None:
        print(claims.write_claims(table, write))
        return 0
    claims.show_claims(table, Console())
    return 0


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
