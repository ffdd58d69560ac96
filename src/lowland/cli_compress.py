"""The command `lowland compress`: parse, call, print."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

INTERRUPTED = 130


def compress(
    features: Annotated[
        Path,
        typer.Argument(
            metavar="FEATURES",
            help="Embeddings, one row each: .npy, .safetensors, or Parquet with a column of lists.",
        ),
    ],
    target: Annotated[
        str, typer.Option(metavar="recall@K=SHARE", help="What must still be found.")
    ] = "recall@10=0.99",
    metric: Annotated[str, typer.Option(help="cosine, inner-product or l2.")] = "cosine",
    queries: Annotated[
        Path | None,
        typer.Option(help="A file of real queries. [default: vectors drawn from FEATURES]"),
    ] = None,
    query_count: Annotated[
        int, typer.Option(help="Queries: one half to choose on, the other to report.")
    ] = 2000,
    prefer: Annotated[
        str, typer.Option(help="bytes: the fewest. speed: the most queries a second.")
    ] = "bytes",
    at_most: Annotated[
        float | None, typer.Option(metavar="BYTES", help="Per vector, not to be exceeded.")
    ] = None,
    quantizers: Annotated[
        str, typer.Option(help="Some of them, with commas; list. [default: all]")
    ] = "",
    rerank: Annotated[
        int,
        typer.Option(
            help="The first K times this are put in order by the vectors themselves, from FEATURES."
        ),
    ] = 1,
    column: Annotated[
        str | None, typer.Option(help="Tensor or column of a file that has several.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write. [default: runs/compress-NAME]")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the record as JSON instead of tables.")
    ] = False,
) -> Callable[[], int]:
    """Fewer dimensions and bits for embeddings, at a recall that you name."""
    if quantizers == "list" or str(features) == "list":
        return _quantizers
    folder = out or Path("runs") / f"compress-{features.stem}"
    options = {
        **{"target": target, "metric": metric, "queries": queries, "query_count": query_count},
        **{"prefer": prefer, "at_most": at_most, "quantizers": quantizers, "rerank": rerank},
        **{"column": column, "seed": seed, "out": folder},
    }
    return lambda: _compress(features, options, as_json)


def _compress(features: Path, options: Mapping[str, Any], as_json: bool) -> int:
    console = Console(stderr=True)
    try:
        return _compressed(features, options, as_json, console)
    except KeyboardInterrupt:
        console.print("lowland: interrupted: nothing half-written is left")
        return INTERRUPTED


def _compressed(features: Path, options: Mapping[str, Any], as_json: bool, console: Console) -> int:
    from lowland import embeddings
    from lowland.report import compression, progress

    with progress.doing(console) as tell:
        found = embeddings.compress(features, tell=tell, **options)
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=1, ensure_ascii=False))
    else:
        compression.show(found.to_dict(), options["out"], Console())
    return 0


def _quantizers() -> int:
    from lowland import embeddings
    from lowland.report import compression

    rows = [(c.name, c.bits, c.words) for c in embeddings.CODECS.values()]
    compression.show_quantizers(rows, Console())
    return 0
