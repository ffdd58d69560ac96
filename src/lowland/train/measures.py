"""What a recipe measures every so many updates, beside its evaluations.

One row per measurement in ``measured.parquet``: ``step``, ``epoch``, and for every instrument NAME
of the recipe (`lowland.measure.INSTRUMENTS`)

    NAME/BLOCK                   on a block's features, or on its parameters
    NAME                         on the whole network, for instruments of weights and loss
    .../standard-error           where the record has one
    .../converged                0 where an iteration stopped before its tolerance; else left out

All on the first `rank_examples` training images, unaugmented, in evaluation mode. The instruments
leave network, gradients and random generators as they were: the run is the same, bit for bit, as
without them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from lowland.core.errors import InputError
from lowland.core.records import Measurement
from lowland.measure import inspect_model, matching_blocks, mean_loss, read_options
from lowland.train.evaluate import Inputs, first, per_example
from lowland.train.history import Row
from lowland.train.plan import Plan
from lowland.train.settings import Options

NAN = "; NaN where it could not be measured, at first: "


class Measures:
    """The measurements of one run.

    Attributes:
        definitions: what every column means, in words; shared with the evaluations.

    Raises:
        InputError: an instrument, option or block that does not exist, or a value of an option that
            the instrument cannot take.
    """

    def __init__(self, plan: Plan, module: nn.Module, definitions: dict[str, str]) -> None:
        self._options = read_options(nested(plan.recipe.measure_options))
        if plan.recipe.measures:
            matching_blocks(module, plan.recipe.measure_blocks)
        self._recipe, self._module, self._steps = plan.recipe, module, plan.steps
        train = first(plan.data.train, plan.recipe.rank_examples)
        dtype = next(module.parameters()).dtype
        self._inputs = Inputs(plan.data, train, dtype)
        self._per_epoch = plan.steps_per_epoch
        self._device = str(train.images.device)
        self._seen: dict[str, None] = {}
        self.definitions = definitions

    def wants(self, step: int) -> bool:
        """Whether to measure after `step` updates: every so many from 0 on, and at the end."""
        every = self._recipe.measure_every
        return bool(self._recipe.measures) and (step % every == 0 or step == self._steps)

    def resume(self, rows: Sequence[Row]) -> None:
        """Go on after these rows of an earlier process."""
        for row in rows:
            self._seen |= dict.fromkeys(column for column in row if column in self.definitions)

    def first(self) -> Row | None:
        """The row at step 0, if one is wanted: what cannot be measured shows before the run."""
        return self(0) if self.wants(0) else None

    def __call__(self, step: int) -> Row:
        """A row. What an instrument refuses at the start is refused; what it refuses later, of a
        network that has diverged or whose units have died, is NaN, and the run goes on."""
        row: Row = {"step": step, "epoch": step / self._per_epoch}
        for name in self._recipe.measures:
            row |= self._one(name)
        return row

    def _one(self, name: str) -> Row:
        try:
            found = inspect_model(
                self._module,
                self._inputs,
                [name],
                blocks=self._recipe.measure_blocks,
                loss_fn=per_example,
                options=self._options,
                device=self._device,
            )
        except InputError as error:
            if math.isfinite(mean_loss(self._module, per_example, self._inputs).value):
                if not self._columns_of(name):  # at the start: it was asked for what cannot be
                    raise
                self._explain(name, str(error))
            return dict.fromkeys(self._columns_of(name), math.nan)
        row: Row = {}
        for block, records in found.blocks.items():
            for record in records.values():
                row |= self._columns(f"{name}/{block}", record)
        for record in found.model.values():
            row |= self._columns(name, record)
        return row

    def _columns_of(self, name: str) -> list[str]:
        return [column for column in self._seen if column.split("/")[0] == name]

    def _explain(self, name: str, reason: str) -> None:
        """Say in the definitions why there is NaN: training goes on where measuring cannot."""
        for column in self._columns_of(name):
            if NAN not in self.definitions[column]:
                self.definitions[column] += f"{NAN}{reason}"

    def _columns(self, column: str, record: Measurement) -> Row:
        self.definitions.setdefault(column, record.definition)
        self._seen[column] = None
        row: Row = {column: record.value}
        if record.uncertainty is not None:
            row[f"{column}/standard-error"] = record.uncertainty
        if not record.converged:
            row[f"{column}/converged"] = 0
        return row


def nested(options: Options) -> Mapping[str, Mapping[str, Any]]:
    """``rank.variance`` as ``variance`` of ``rank``.

    >>> nested((("rank.center", "none"), ("rank.variance", 0.9)))
    {'rank': {'center': 'none', 'variance': 0.9}}
    """
    found: dict[str, dict[str, Any]] = {}
    for key, value in options:
        name, dot, option = key.partition(".")
        if not dot:
            raise InputError(f"measure_options: {key!r} names no instrument: write rank.{key}=...")
        found.setdefault(name, {})[option] = value
    return found
