"""What recipes of every kind say about the optimizer."""

from __future__ import annotations

from lowland.core.errors import InputError, unknown
from lowland.train.fields import Fields
from lowland.train.settings import Options

NO_METHOD = "none"
"""The method that is the base optimizer alone: one pass per step, no perturbation."""
FEDERATED = ("fedasam", "fedsam", "mofedsam")
"""Methods that train on many clients in rounds, which a recipe has not got."""


class Stepped(Fields):
    """Settings of method and base optimizer; the fields themselves are the recipe's."""

    method: str
    rho: float
    method_options: Options
    base: str
    lr: float
    momentum: float
    weight_decay: float

    @property
    def brings_base(self) -> bool:
        """Whether the method is an optimizer of its own, so that base and momentum are not used."""
        from lowland.optim import METHODS

        return self.method in METHODS and METHODS[self.method].kind == "base optimizer"

    @property
    def optimizer(self) -> str:
        """What steps, in words."""
        if self.method == NO_METHOD:
            return self.base
        if self.brings_base:
            return f"{self.method} over its own base optimizer; base and momentum are not used"
        return f"{self.method} over {self.base}"

    def check_method(self) -> None:
        """Refuse a method that no recipe can have, and settings that it does not take.

        Raises:
            InputError: which.
        """
        from lowland.optim import METHODS

        if self.method in FEDERATED:
            raise InputError(
                f"{self.method} trains in rounds over clients, and a recipe has none: choose "
                "another method, or call it from Python"
            )
        if self.method not in (NO_METHOD, *METHODS):
            raise unknown("method", self.method, [NO_METHOD, *METHODS])
        if self.method == NO_METHOD and (self.rho or self.method_options):
            raise InputError("method none has no rho and no method_options: choose a method")
        if self.base != "sgd" and self.momentum:
            raise InputError(f"momentum belongs to base sgd, not to {self.base}: set momentum=0")
