"""Noise on weights: what it is drawn from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lowland.core.errors import InputError, unknown
from lowland.core.seeds import generator
from lowland.measure.surface.balls import Ball, normal, uniform_in_ball

NOISES = ("gaussian", "ball", "sphere")
PER = ("element", "norm")


@dataclass(frozen=True)
class NoiseLaw:
    """What ε is drawn from.

    Attributes:
        kind: one of `NOISES`.
        per: one of `PER`, for Gaussian noise.
        ball: radius, norm and T.
        antithetic: whether ε and -ε make one draw.
    """

    kind: str
    per: str
    ball: Ball
    antithetic: bool

    def __post_init__(self) -> None:
        if self.kind not in NOISES:
            raise unknown("noise", self.kind, NOISES)
        if self.per not in PER:
            raise unknown("per", self.per, PER)
        if self.kind != "gaussian" and self.per != "element":
            raise InputError("per: says what ρ is of Gaussian noise; leave it out for others")
        if self.kind != "ball" and self.ball.p != 2:
            raise InputError(f"p: {self.ball.p:g} needs noise='ball'; {self.kind} noise has p=2")

    @property
    def words(self) -> str:
        """For definitions: the distribution of ε."""
        eps = "eps" if self.ball.adaptive is None else "eps/T"
        size = f"rho = {self.ball.rho:g}"
        if self.kind == "gaussian":
            sigma = "rho" if self.per == "element" else "rho/sqrt(d)"
            found = f"{eps} ~ N(0, ({sigma})^2) in each of d elements, {size}"
        else:
            where = "in the ball" if self.kind == "ball" else "on the sphere"
            found = f"{eps} uniform {where} of radius {size}"
        found += f", {self.ball.words}" if self.ball.adaptive or self.kind == "ball" else ""
        return found + (", in pairs +eps and -eps" if self.antithetic else "")

    def draw(self, like: Sequence[Tensor], *address: int | str) -> list[Tensor]:
        """T⁻¹ε for this address."""
        source = generator("cpu", "average sharpness", *address)
        rho = self.ball.rho
        if self.kind == "gaussian":
            d = sum(t.numel() for t in like)
            return normal(like, rho if self.per == "element" else rho / math.sqrt(d), source)
        return uniform_in_ball(like, self.ball.p, rho, source, surface=self.kind == "sphere")
