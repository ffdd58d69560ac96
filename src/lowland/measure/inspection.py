"""Several instruments on one model, block by block, from one pass for all features."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lowland.core.errors import InputError
from lowland.core.records import Measurement
from lowland.core.restore import preserved_randomness
from lowland.measure.blocks import matching_blocks, named_blocks
from lowland.measure.evaluation import Batches, Loss, labelled, refuse_shuffled
from lowland.measure.features.capture import capture
from lowland.measure.features.shared import SharedSpectra
from lowland.measure.instruments import Instrument, check_options, find_instrument

Options = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What several instruments found on one model.

    Attributes:
        blocks: block -> instrument -> record.
        model: instrument -> record over the whole model.
        seconds: wall time of everything.
    """

    blocks: dict[str, dict[str, Measurement]]
    model: dict[str, Measurement]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The records as plain values, ready for JSON."""
        return {
            "blocks": {
                b: {n: m.to_dict() for n, m in row.items()} for b, row in self.blocks.items()
            },
            "model": {name: found.to_dict() for name, found in self.model.items()},
            "seconds": self.seconds,
        }


def inspect_model(
    model: nn.Module,
    batches: Batches,
    what: Sequence[str] = ("rank", "active"),
    *,
    blocks: str = "block*",
    loss_fn: Loss | None = None,
    options: Options | None = None,
    capturing: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> Inspection:
    """Measure `what` on every block that `blocks` matches, and on the whole model.

    Features of all blocks are caught in one pass. Instruments of weights and loss are asked for
    the whole model, and then for the parameters of each block where that makes sense.

    Args:
        model: called as ``model(inputs)``; left exactly as it was.
        batches: inputs, or pairs (inputs, targets), that can be read several times.
        what: names from `INSTRUMENTS`.
        blocks: glob over the names of `model.named_modules()`, as for `capture`.
        loss_fn: for instruments that look at the loss; see `mean_loss`.
        options: instrument -> its options, over those of `INSTRUMENTS`.
        capturing: what to take of each block: ``where``, ``tokens``, ``spatial`` of `capture`.
        device: where to gather features.

    Cost: one forward pass and n·d numbers per block for all instruments of features together;
    then each instrument's own.

    Raises:
        InputError: an unknown instrument, no loss or no labels for one that needs them, or what
            the instruments raise.
    """
    start = time.perf_counter()
    refuse_shuffled(batches)
    chosen = [find_instrument(name) for name in dict.fromkeys(what)]
    check_options(options or {})
    subject = _Subject(model, batches, loss_fn, options or {}, matching_blocks(model, blocks))
    capturing = {**(capturing or {}), "device": device}
    features, labels = subject.features(chosen, blocks, capturing)
    return Inspection(
        blocks={b: subject.of_block(b, chosen, features.get(b), labels) for b in subject.blocks},
        model={i.name: subject.ask(i, None) for i in chosen if i.looks_at in _OF_MODELS},
        seconds=time.perf_counter() - start,
    )


_OF_MODELS = ("weights", "loss")


@dataclass(frozen=True, eq=False)
class _Subject:
    """A model with all that instruments may want beside it."""

    model: nn.Module
    batches: Batches
    loss_fn: Loss | None
    options: Options
    blocks: list[str]

    def features(
        self, chosen: Sequence[Instrument], glob: str, capturing: Mapping[str, Any]
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Features of all blocks and labels of all examples, as far as they are needed."""
        wanted = {instrument.looks_at for instrument in chosen}
        if not wanted & {"features", "labelled features"}:
            return {}, None
        features = capture(self.model, self.batches, glob, **capturing)
        if "labelled features" not in wanted:
            return features, None
        with preserved_randomness():  # merely opening a data loader draws a number
            labels = [targets.cpu() for _, targets in labelled(self.model, self.batches)]
        return features, torch.cat(labels)

    def of_block(
        self, block: str, chosen: Sequence[Instrument], features: Tensor | None, labels: Any
    ) -> dict[str, Measurement]:
        """What can be said of one block."""
        dimensions = max((p.ndim for p in named_blocks(self.model)[block].parameters()), default=-1)
        spectra = SharedSpectra(features)
        found = {}
        for instrument in chosen:
            options = self._options(instrument)
            if instrument.looks_at == "features":
                found[instrument.name] = spectra.ask(instrument.measure, options)
            elif instrument.looks_at == "labelled features":
                found[instrument.name] = instrument.measure(features, labels, **options)
            elif instrument.by_block and dimensions >= instrument.least_dimensions:
                found[instrument.name] = self.ask(instrument, block)
        return found

    def ask(self, instrument: Instrument, block: str | None) -> Measurement:
        """An instrument of weights or loss, of the whole model or of the parameters of a block."""
        options = self._options(instrument)
        if block is not None:
            options["parameters"] = block
        if instrument.looks_at == "weights":
            measured: Measurement = instrument.measure(self.model, **options)
            return measured
        if self.loss_fn is None:
            raise InputError(f"{instrument.name} looks at the loss: give loss_fn")
        measured = instrument.measure(self.model, self.loss_fn, self.batches, **options)
        return measured

    def _options(self, instrument: Instrument) -> dict[str, Any]:
        return {**dict(instrument.options), **self.options.get(instrument.name, {})}
