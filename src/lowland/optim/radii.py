"""How far: from the norm n to φ(n), the factor on M·d."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from lowland.core.errors import InputError, unknown
from lowland.optim.checks import check_number


class Radius(Protocol):
    """(n, ρ, parameter group) → φ(n), for n a float or a 0-dim tensor; not negative for n >= 0.

    It may have `defaults`, the names of hyperparameters that live in the parameter groups.
    """

    def __call__(self, norm: Any, rho: float, group: dict[str, Any], /) -> Any: ...


@dataclass(frozen=True)
class Normalized:
    """SAM's radius: φ(n) = ρ/(n + guard), so that ‖ε‖ = ρ up to ρ·guard/n; ε = 0 where n = 0."""

    guard: float = 1e-12

    def __call__(self, norm: Any, rho: float, group: dict[str, Any], /) -> Any:
        return rho / (norm + self.guard)


@dataclass(frozen=True)
class Unnormalized:
    """USAM's radius: φ(n) = ρ, so that ‖ε‖ = ρ·n. A loss times c has c times the ε."""

    def __call__(self, norm: Any, rho: float, group: dict[str, Any], /) -> Any:
        return rho + 0.0 * norm


def _check_share(lam: float | str) -> None:
    if isinstance(lam, str):
        if lam not in ("1/t", "1-1/t"):
            raise unknown("lam", lam, ("1/t", "1-1/t"))
        return
    check_number("lam", lam, least=0.0)
    if lam > 1:
        raise InputError(f"lam is {lam}: give a number in [0, 1], '1/t' or '1-1/t'")


@dataclass(frozen=True)
class Mixed:
    """Unified SAM's radius: φ(n) = ρ·(1 − λ + λ/(n + guard)), between USAM (0) and SAM (1).

    Attributes:
        lam: λ in [0, 1], or a schedule by name: "1/t" or "1-1/t", with t = 1 in the first step.
    """

    lam: float | str = 0.5
    guard: float = 1e-12
    defaults: ClassVar[tuple[str, ...]] = ("lam",)

    def __post_init__(self) -> None:
        _check_share(self.lam)

    def __call__(self, norm: Any, rho: float, group: dict[str, Any], /) -> Any:
        lam = group["lam"]
        _check_share(lam)
        if isinstance(lam, str):
            share = 1 / (group["sam_step"] + 1)
            lam = share if lam == "1/t" else 1 - share
        return rho * (1 - lam) + rho * lam / (norm + self.guard)


@dataclass(frozen=True)
class Pullback:
    """Monge SAM's radius: φ(n) = ρ/(n·√(1 + n²)), so that εᵀ(I + g·gᵀ)ε = ρ².

    Close to SAM where the gradient is small, ‖ε‖ ≈ ρ/n where it is large.
    """

    guard: float = 1e-12

    def __call__(self, norm: Any, rho: float, group: dict[str, Any], /) -> Any:
        return rho / ((norm + self.guard) * (1 + norm * norm) ** 0.5)


@dataclass(frozen=True)
class FollowingLR:
    """GSAM's radius: SAM's, with ρ_t = ρ_min + (ρ − ρ_min)·(η − η_min)/(η_max − η_min).

    η is the step size of the parameter group. Where η_max = η_min, ρ_t = ρ.

    Attributes:
        rho_min: ρ where η = η_min, the same for all groups.
        lr_max: η_max.
        lr_min: η_min.
    """

    rho_min: float
    lr_max: float | None
    lr_min: float = 0.0
    guard: float = 1e-12
    defaults: ClassVar[tuple[str, ...]] = ("rho_min", "lr_max", "lr_min")

    def __post_init__(self) -> None:
        if self.lr_max is None:
            raise InputError("rho_min= needs lr_max=, the step size at which ρ is rho")
        for name in ("rho_min", "lr_max", "lr_min"):
            check_number(name, getattr(self, name), least=0.0)
        if self.lr_max < self.lr_min:
            raise InputError(f"lr_max is {self.lr_max} and lr_min {self.lr_min}: swap them")

    def __call__(self, norm: Any, rho: float, group: dict[str, Any], /) -> Any:
        span = group["lr_max"] - group["lr_min"]
        share = 1.0 if span == 0 else (group["lr"] - group["lr_min"]) / span
        least = group["rho_min"] * (rho / group["rho"]) if group["rho"] else 0.0
        now = rho * share + least * (1 - share)
        if now * rho < 0:
            raise InputError(
                f"rho follows the step size to {now:.3g}: the lr {group['lr']:.3g} is outside "
                f"{group['lr_min']:.3g} to {group['lr_max']:.3g}; set lr_min to the schedule's end"
            )
        return now / (norm + self.guard)
