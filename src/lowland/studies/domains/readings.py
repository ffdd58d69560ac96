"""What is read off a network that a recipe trained on all domains but one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lowland.core.selection import output_layer
from lowland.measure import capture
from lowland.studies.domains import heads
from lowland.train.evaluate import Inputs

if TYPE_CHECKING:
    from torch import Tensor

    from lowland.data import Split
    from lowland.train import Row
    from lowland.train.reading import Trained

READ = "lowland.studies.domains.readings:read"


def read(trained: Trained) -> Row:
    """Errors of new last layers on what the output layer is given (`heads.errors`)."""
    data = trained.data.to("cpu")
    validation, test = (_features(trained, s) for s in ("validation", "test"))
    return dict(heads.errors(data, validation, test))


def _features(trained: Trained, split: str) -> Tensor:
    module = trained.module
    head = output_layer(module, None)
    name = next(name for name, child in module.named_modules() if child is head)
    part: Split = trained.data.splits[split]
    inputs = Inputs(trained.data, part, next(module.parameters()).dtype)
    return capture(module, inputs, name, where="input")[name].float().cpu()
