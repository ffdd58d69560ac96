"""The command `lowland inspect`: parse, call, print."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

INTERRUPTED = 130


def inspect(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL [MODEL]",
            help="A run directory, a file of weights, a TorchScript or exported program, an .npz "
            "checkpoint of a ViT or Mixer, timm:NAME or hf:NAME. Two are compared.",
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            help="digits, fashion-mnist, parquet:FILE, imagefolder:FOLDER, npz:FILE, cifar:FOLDER, "
            "hf:NAME. "
            "[default: what a run was trained on]"
        ),
    ] = None,
    what: Annotated[
        str, typer.Option(help="Instruments, with commas; all; list. [default: rank,active]")
    ] = "",
    blocks: Annotated[
        str | None, typer.Option(help="Glob over names of modules. [default: the repeated ones]")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="A published convention: low-rank-paper.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="INSTRUMENT.OPTION=VALUE", help="As rank.variance=0.95."),
    ] = None,
    examples: Annotated[
        int | None, typer.Option(help="Measure on the first so many. [default: 2048]")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="train, validation or test. [default: train, or all]")
    ] = None,
    order: Annotated[
        str, typer.Option(help="Which are first: file, or classes for classes in turn.")
    ] = "file",
    column: Annotated[
        str | None, typer.Option(help="Column of images or texts in a Parquet file.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="[default: 64]")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    size: Annotated[
        str | None, typer.Option(help="Pixels of the network's images: 224, or 224x160.")
    ] = None,
    mean: Annotated[
        str | None, typer.Option(help="Of values in [0, 1]: 0.5, or a number per channel.")
    ] = None,
    std: Annotated[str | None, typer.Option(help="The same for the standard deviation.")] = None,
    tokens: Annotated[
        str | None, typer.Option(help="class, mean, last, flatten, ... [default: the network's]")
    ] = None,
    spatial: Annotated[str, typer.Option(help="Of convolutions: flatten or mean.")] = "flatten",
    where: Annotated[
        str, typer.Option(help="Of each block: output, input, after-attention, ...")
    ] = "output",
    constructor: Annotated[
        str | None,
        typer.Option(metavar="PACKAGE.MODULE:FUNCTION", help="Makes the network of weights."),
    ] = None,
    arguments: Annotated[
        list[str] | None,
        typer.Option("--argument", metavar="KEY=VALUE", help="Of the constructor."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Network of weights: one of lowland's, or timm:NAME.")
    ] = None,
    width: Annotated[int | None, typer.Option(help="Width of --model.")] = None,
    tower: Annotated[
        str | None, typer.Option(help="Of a network such as CLIP: image or text. [default: image]")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the report. [default: runs/inspect-MODEL]")
    ] = None,
) -> Callable[[], int]:
    """See a checkpoint block by block: rank, active units, sharpness, probes."""
    request = {
        **{"what": what, "blocks": blocks, "preset": preset, "settings": settings or []},
        **{"examples": examples, "split": split, "order": order, "batch_size": batch_size},
        **{"device": device, "tokens": tokens, "spatial": spatial, "where": where},
    }
    how = {
        **{"model": model, "width": width, "constructor": constructor, "tower": tower},
        **{"arguments": arguments or [], "size": size, "mean": mean, "std": std},
    }
    if what == "list" or models == ["list"]:
        return _instruments
    return lambda: _inspect(models, data, column, request, how, out)


def _inspect(
    models: list[str],
    data: str | None,
    column: str | None,
    request: Mapping[str, Any],
    how: Mapping[str, Any],
    out: Path | None,
) -> int:
    console = Console(stderr=True)
    try:
        return _inspected(models, data, column, request, how, out, console)
    except KeyboardInterrupt:
        console.print("lowland: interrupted: nothing half-written is left")
        return INTERRUPTED


def _inspected(
    models: list[str],
    data: str | None,
    column: str | None,
    request: Mapping[str, Any],
    how: Mapping[str, Any],
    out: Path | None,
    console: Console,
) -> int:
    from lowland import inspection
    from lowland.report import inspection_terminal, progress
    from lowland.report.inspection_page import write_page

    asked = inspection.make_request(**request)
    known = inspection.How(
        **{key: how[key] for key in ("model", "width", "constructor", "tower")},
        arguments=inspection.parse_arguments(how["arguments"]),
        size=inspection.parse_size(how["size"]),
        mean=inspection.parse_numbers("mean", how["mean"]),
        std=inspection.parse_numbers("std", how["std"]),
    )
    folder = out or Path(inspection.default_folder(models))
    inspection.check_folder(folder)
    with progress.doing(console) as tell:
        record = inspection.inspect_checkpoints(
            models, asked, data=data, column=column, how=known, tell=tell
        )
    inspection.write_record(folder, record)
    inspection_terminal.show(record, Console(), page=write_page(folder, record))
    return 0


def _instruments() -> int:
    from lowland.measure import INSTRUMENTS
    from lowland.report.inspection_terminal import show_instruments

    rows = [(i.name, i.words, i.looks_at, i.source) for i in INSTRUMENTS.values()]
    show_instruments(rows, Console())
    return 0
