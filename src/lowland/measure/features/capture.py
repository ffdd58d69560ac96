"""Features of a model's blocks, caught where they are made."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lowland.core.errors import InputError, unknown
from lowland.core.restore import preserved
from lowland.measure.blocks import eager, matching_blocks, named_blocks
from lowland.measure.evaluation import Batches, inputs_only, outputs_of, refuse_shuffled
from lowland.measure.features.positions import Positions
from lowland.measure.features.residual import STREAMS, find_streams
from lowland.measure.features.taps import Catcher, Stream, Tap

PLACES = ("output", "input", *STREAMS)
"""What can be caught of a block, see `capture`."""


def capture(
    model: nn.Module,
    batches: Batches,
    blocks: str = "block*",
    *,
    where: str | Sequence[str] = "output",
    tokens: str = "flatten",
    spatial: str = "flatten",
    channels_last: bool = False,
    device: str = "cpu",
) -> dict[str, Tensor]:
    """Features of blocks on all examples, from one pass: block name -> rows (n, d).

    Eval mode, no gradients, rows in the order of the data, in the type that the model computes in.
    Outputs are copied at once, so that an in-place operation further on does not change them.

    Args:
        model: called as ``model(inputs)``, or ``model(**inputs)`` where inputs are a mapping; left
            exactly as it was.
        batches: inputs, or tuples that begin with them, or mappings; not shuffled.
        blocks: glob over the names of `model.named_modules()`; commas separate several. Stars stay
            within one level: ``block*`` is block1 and block2, not block1.conv1.
        where: what of each block. "output" and "input": the first tensor that it returns or is
            given (of a tuple or a mapping the first entry, which is the hidden state in models of
            transformers). For transformer blocks x → y, normalised before or after their branches:

            - "before-attention": the residual stream x;
            - "after-attention": the stream between the branches (with norms after the sums, their
              output); in blocks with several attentions, after all of them;
            - "after-mlp": the block's output y;
            - "attention-branch", "mlp-branch": what is added to the stream: the output of the
              module that is added, where there is one, else sum minus summand;
            - "before-activation", "after-activation": of the MLP's nonlinearity.

            In a Mixer, token mixing is the attention. Where each of them is caught is learned from
            one more pass over two examples; see `residual_streams`. A list gives several at once,
            under the keys ``block:where``.
        tokens: which tokens of outputs (b, t, d): "flatten" (t·d features), "rows" (every token a
            row), "class" (the first), "last", "mean", "mean-without-class", "mean-with-padding".
            Where inputs have an ``attention_mask``, padding is left out of "rows" and the means;
            "mean-with-padding" is the convention of the text features of arXiv 2305.16292.
        spatial: of outputs (b, c, h, w): "flatten" (c·h·w features) or "mean" (over positions).
        channels_last: outputs with four dimensions are (b, h, w, c).
        device: where to gather the features; "model": where they are made.

    Cost: one forward pass; n·d numbers per block and, for a moment, those of one block twice.

    Raises:
        InputError: no such block, a shuffling loader, no examples, a block whose output does not
            begin with a tensor with a row per example, made once per forward pass, or whose
            residual stream cannot be told.
    """
    refuse_shuffled(batches)
    wanted = _Wanted(model, blocks, where, Positions(tokens, spatial, channels_last))
    found: dict[str, list[Tensor]] = {}
    with contextlib.closing(_rows(model, batches, wanted)) as passes:
        for output in passes:
            for name, rows in output.items():
                rows = rows if device == "model" else rows.to(device)
                found.setdefault(name, []).append(rows)
    if not found:
        raise InputError("batches: no examples; give at least one batch")
    return {name: _joined(name, found.pop(name)) for name in list(found)}


def stream(
    model: nn.Module,
    batches: Batches,
    block: str,
    *,
    where: str = "output",
    tokens: str = "flatten",
    spatial: str = "flatten",
    channels_last: bool = False,
) -> Callable[[], Iterator[Tensor]]:
    """Features of one block as a function that returns a fresh iterator of chunks (b, d).

    For `feature_rank` and `active_units`, when the features of all examples do not fit in memory:
    every call runs the model over `batches` again. While an iterator is open the model is in eval
    mode; it is put back when the iterator ends or is closed.

    Args:
        model: as for `capture`.
        batches: as for `capture`; a list or a data loader, that can be read many times.
        block: name of a module, or a glob that matches one.
        where: as for `capture`, one of them.
        tokens: as for `capture`.
        spatial: as for `capture`.
        channels_last: as for `capture`.

    Raises:
        InputError: no block or several; otherwise as `capture`.
    """
    refuse_shuffled(batches)
    wanted = _Wanted(model, block, where, Positions(tokens, spatial, channels_last))
    if len(wanted.blocks) > 1:
        raise InputError(f"block: {block!r} matches {', '.join(wanted.blocks)}; name one of them")
    if not isinstance(where, str):
        raise InputError("where: a stream is of one place; give a single name")

    def chunks() -> Iterator[Tensor]:
        with contextlib.closing(_rows(model, batches, wanted)) as passes:
            for output in passes:
                yield from output.values()

    return chunks


def residual_streams(
    model: nn.Module, batches: Batches, blocks: str = "block*"
) -> dict[str, dict[str, str]]:
    """Where `capture` finds the streams of transformer blocks: block -> stream -> words.

    Args:
        model: as for `capture`; left exactly as it was.
        batches: as for `capture`; two examples of the first batch are run.
        blocks: as for `capture`.

    Raises:
        InputError: as `capture`.
    """
    refuse_shuffled(batches)
    wanted = _Wanted(model, blocks, STREAMS, Positions())
    with preserved(model), torch.no_grad(), eager(model):
        model.eval()
        for inputs in inputs_only(model, batches):
            found = wanted.streams_of_blocks(inputs)
            return {b: {name: str(s) for name, s in row.items()} for b, row in found.items()}
    raise InputError("batches: no examples; give at least one batch")


class _Wanted:
    """What to catch, before it is known where."""

    def __init__(
        self, model: nn.Module, glob: str, where: str | Sequence[str], positions: Positions
    ) -> None:
        self.positions = positions
        self._model = model
        modules = named_blocks(model)
        self.blocks = {name: modules[name] for name in matching_blocks(model, glob)}
        self._single = isinstance(where, str)
        self._where = [where] if isinstance(where, str) else list(where)
        for place in self._where:
            if place not in PLACES:
                raise unknown("place in a block", place, PLACES)

    def catcher(self, inputs: Any) -> Catcher:
        """Catches all that is wanted; looks for residual streams on these inputs if need be."""
        found = self.streams_of_blocks(inputs) if set(self._where) & set(STREAMS) else {}
        streams = {}
        for name, block in self.blocks.items():
            for place in self._where:
                key = name if self._single else f"{name}:{place}"
                streams[key] = _stream(name, block, place, found.get(name, {}))
        return Catcher(streams, self.positions)

    def streams_of_blocks(self, inputs: Any) -> dict[str, dict[str, Stream]]:
        """Where the residual streams are, from a pass over two examples."""
        few = _first(inputs, 2)
        return find_streams(lambda: outputs_of(self._model, few), self.blocks)


def _stream(name: str, block: nn.Module, place: str, found: Mapping[str, Stream]) -> Stream:
    if place == "output":
        return Stream(Tap(name, block, "output"))
    if place == "input":
        return Stream(Tap(name, block, "input"))
    if place not in found:
        raise InputError(
            f"block {name!r} has no activation that can be told; name its module, or take the "
            "input of the layer after it"
        )
    return found[place]


def _first(inputs: Any, count: int) -> Any:
    """The first examples of a batch, where it can be cut."""
    if isinstance(inputs, Tensor):
        return inputs[:count] if inputs.ndim > 0 else inputs
    if not isinstance(inputs, Mapping):
        return inputs
    sizes = [len(v) for v in inputs.values() if isinstance(v, Tensor) and v.ndim > 0]
    n = sizes[0] if sizes else 0
    return {
        k: v[:count] if isinstance(v, Tensor) and v.ndim > 0 and len(v) == n else v
        for k, v in inputs.items()
    }


def _rows(
    model: nn.Module, batches: Batches, wanted: _Wanted
) -> Generator[dict[str, Tensor], None, None]:
    """For each batch what is wanted of it; the model is preserved around all of it."""
    catcher: Catcher | None = None
    with preserved(model), contextlib.ExitStack() as hooks:
        model.eval()
        for inputs in inputs_only(model, batches):
            with torch.no_grad(), eager(model):
                if catcher is None:
                    catcher = wanted.catcher(inputs)
                    catcher.attach(hooks)
                catcher.begin(inputs)
                outputs_of(model, inputs)
            yield catcher.rows()


def _joined(name: str, chunks: list[Tensor]) -> Tensor:
    widths = sorted({chunk.shape[1] for chunk in chunks})
    if len(widths) > 1:
        raise InputError(
            f"{name!r} has {widths[0]} to {widths[-1]} features per example: examples of different "
            "length; take tokens='mean', 'class' or 'rows', or pad all to one length"
        )
    return torch.cat(chunks)
