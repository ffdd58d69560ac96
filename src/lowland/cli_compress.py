"""The command `lowland compress`: parse, call, print."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from lowland.core.errors import InputError

INTERRUPTED = 130


def compress(
    features: Annotated[
        list[Path],
        typer.Argument(
            metavar="FEATURES...",
            help="Embeddings, one row each: .npy, .safetensors, or Parquet with a column of lists; "
            "several files, or a folder of them, are read one after the other.",
        ),
    ],
    target: Annotated[
        str,
        typer.Option(
            metavar="recall@K=SHARE",
            help="What must still be found; recall@K: as much as --at-most allows.",
        ),
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
    queries_column: Annotated[
        str | None, typer.Option(help="The same of the file of queries.")
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
    if quantizers == "list" or features == [Path("list")]:
        return _quantizers
    folder = out or Path("runs") / f"compress-{features[0].resolve().stem}"
    options = {
        **{"target": target, "metric": metric, "queries": queries, "query_count": query_count},
        **{"prefer": prefer, "at_most": at_most, "quantizers": quantizers, "rerank": rerank},
        **{"column": column, "queries_column": queries_column, "seed": seed, "out": folder},
    }
    return lambda: _compress(features, options, as_json)


def _compress(features: list[Path], options: Mapping[str, Any], as_json: bool) -> int:
    console = Console(stderr=True)
    try:
        return _compressed(features, options, as_json, console)
    except KeyboardInterrupt:
        console.print("lowland: interrupted: nothing half-written is left")
        return INTERRUPTED


def _compressed(
    features: list[Path], options: Mapping[str, Any], as_json: bool, console: Console
) -> int:
    from lowland import embeddings
    from lowland.report import compression, progress

    source = features[0] if len(features) == 1 else features
    with progress.doing(console) as tell, _memory_watched(tell) as told:
        found = embeddings.compress(source, tell=told, **options)
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=1, ensure_ascii=False))
    else:
        compression.show(found.to_dict(), options["out"], Console())
    return 0


@contextlib.contextmanager
def _memory_watched(tell: Callable[[str], object]) -> Iterator[Callable[[str], object]]:
    """`tell`, and one line with what was last told where memory runs out."""
    doing = "reading"

    def told(words: str) -> None:
        nonlocal doing
        doing = words
        tell(words)

    try:
        yield told
    except (MemoryError, RuntimeError) as error:
        # libraries have words of their own for it
        if not isinstance(error, MemoryError) and "alloc" not in str(error):
            raise
        raise InputError(
            f"memory ran out ({doing}): free some, or take a smaller --query-count, or fewer "
            "--quantizers without pq"
        ) from None


def _quantizers() -> int:
    from lowland import embeddings
    from lowland.report import compression

    rows = [(c.name, c.bits, c.words) for c in embeddings.CODECS.values()]
    compression.show_quantizers(rows, Console())
    return 0
