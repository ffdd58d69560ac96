"""What ε is: selection, transform, metric, radius.

ε = φ(n)·M·d, with d the direction made from the gradient g (transform), M·d and the norm's parts
from the metric, n the norm over all selected tensors of all groups together, and φ the radius.
The transform comes before the metric; only the engine reduces the norm.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lowland.core.errors import InputError, unknown
from lowland.optim.metrics import Euclidean, Metric
from lowland.optim.radii import Normalized, Radius
from lowland.optim.selections import Everything, Selection
from lowland.optim.transforms import Transform

SCOPES = ("global", "local")
NORMS_OF = ("direction", "gradient")

OWN_EPSILON = (
    "this method makes its own ε, and perturbation= says another: leave it to 'global' or 'local', "
    "or compose the parts that you want by SharpnessAware(..., perturbation=..., plan=...)"
)
UNUSED = "{}, so what perturbation= says would do nothing: leave it out, or take a method with an ε"


@dataclass(frozen=True)
class Perturbation:
    """ε = φ(n)·M·d: what moves, in which direction, under which metric, how far.

    Any combination works: F-SAM's direction on normalization layers with ASAM's metric is
    ``Perturbation(NormLayers(), MinusRunningMean(), Elementwise())``.

    Attributes:
        selection: which tensors move.
        transform: from g to the direction d; None is d = g.
        metric: M, and what is measured.
        radius: φ.
        norm_of: what n is measured of: the "direction" d, or the "gradient" g before the transform.
        across: with several devices, whose gradient g is: "global" is the mean over all of them
            (m is the whole batch), "local" is each device's own (m is the device's batch, ε
            differs between devices, and the first pass exchanges nothing).
    """

    selection: Selection = field(default_factory=Everything)
    transform: Transform | None = None
    metric: Metric = field(default_factory=Euclidean)
    radius: Radius = field(default_factory=Normalized)
    norm_of: str = "direction"
    across: str = "global"

    def __post_init__(self) -> None:
        if self.norm_of not in NORMS_OF:
            raise unknown("norm_of", self.norm_of, NORMS_OF)
        if isinstance(self.across, Perturbation):  # of a preset, which only asks "across" what
            raise InputError(OWN_EPSILON)
        if self.across not in SCOPES:
            raise unknown("perturbation", self.across, SCOPES)

    def check_unused(self, why: str) -> None:
        """Raise `InputError` unless this is the default, which nobody has asked for."""
        if self != Perturbation():
            raise InputError(UNUSED.format(why))

    def defaults(self) -> dict[str, Any]:
        """The hyperparameters that go into the parameter groups."""
        owners: list[Any] = [self.transform, self.metric, self.radius]
        return {name: getattr(o, name) for o in owners for name in getattr(o, "defaults", ())}
