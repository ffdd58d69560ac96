"""The arms of the methods study: one line each.

An arm is a method with its options. All arms are tuned over the same grid: the radii of SAM,
times the arm's own scale. Scales are those that the authors' radii have to SAM's, or, where the
network decides, were found on seeds from 1000 on at the default size; `why` says which.

`passes` are forward and backward passes over the batch per step, a forward alone counting a third.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from lowland.core.errors import InputError, unknown

PLAIN = "plain"
SAM = "sam"
UNIT = 0.1
"""SAM's ρ that scales refer to: the middle of its usual grid on CIFAR and on digits."""

Options = Mapping[str, bool | int | float | str]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A method with its options.

    Attributes:
        name: what it is called; also the name of its group of runs.
        method: in `lowland.optim.METHODS`, or ``none``.
        scale: its ρ in units of SAM's.
        why: where the scale comes from.
        passes: forward and backward passes per step.
        options: of the method.
        rhos: radii of its own, in place of scaled ones.
        own: settings of its base optimizer, where those of plain training do not fit: it brings
            the base, or does itself what momentum and weight decay do.
    """

    name: str
    method: str
    scale: float = 1.0
    why: str = ""
    passes: float = 2.0
    options: Options = field(default_factory=dict)
    rhos: tuple[float, ...] = ()
    own: Mapping[str, float] = field(default_factory=dict)

    def radii(self, sams: Iterable[float]) -> tuple[float, ...]:
        """Its ρ where SAM's are `sams`."""
        if self.method == "none":
            return (0.0,)
        return self.rhos or tuple(float(f"{self.scale * rho:.6g}") for rho in sorted(set(sams)))

    def epochs_at_equal_compute(self, epochs: int) -> int:
        """Epochs with as many passes as SAM has in `epochs`, a whole number, at least 1."""
        return max(1, round(2 * epochs / self.passes))


def _arm(
    name: str,
    scale: float = 1.0,
    why: str = "SAM's",
    passes: float = 2.0,
    *,
    method: str = "",
    rhos: tuple[float, ...] = (),
    own: Mapping[str, float] | None = None,
    **options: bool | int | float | str,
) -> Arm:
    return Arm(
        name=name,
        method=method or name,
        scale=scale,
        why=why,
        passes=passes,
        options=MappingProxyType(options),
        rhos=rhos,
        own=MappingProxyType(own or {}),
    )


_HUNDREDFOLD = "a 100-fold range, up to ‖ε‖ near 1 in the first step"
_I = (0.01, 0.1, 1.0)
_ELEMENTWISE = (0.0001, 0.001, 0.01)
_FREE = {"momentum": 0.0, "weight_decay": 0.0}
_THIRD = 1 / 3
"""A forward alone."""

# fmt: off
_ALL = (
    _arm(PLAIN, 0.0, "no ρ", 1.0, method="none"),
    _arm(SAM, 1.0, f"grid around {UNIT:g}"),
    _arm("usam", 1.0, "found on seeds from 1000 on"),
    _arm("unified-sam", 1.0, "λ = ½: between SAM and USAM"),
    _arm("asam", 5.0, "authors': 0.5 on CIFAR-10"),
    _arm("layerwise-sam", 0.3, "found on seeds from 1000 on; each of 24 tensors moves by ρ"),
    _arm("last-layer-sam", 2.0, "found on seeds from 1000 on", 1.0),
    _arm("logits-sam", 2.0, "that of last-layer-sam, which it is without bias", 1.0),
    _arm("sam-on", 2.0, "found on seeds from 1000 on; the authors' is larger than SAM's too"),
    _arm("sam-on complement", 1.0, method="sam-on", no_norm=True),
    _arm("monge-sam"),
    _arm("mup2", 1.0, "SAM's: at base width they are one"),
    _arm("m-sam m=32", method="m-sam", m=32),
    _arm("m-sam m=16", method="m-sam", m=16),
    _arm("m-sam m=8", method="m-sam", m=8),
    _arm("m-sam m=4", method="m-sam", m=4),
    _arm("n-sam", 1.0, "SAM's", 5.0, ascent_batches=4),
    _arm("rw-sam", 1.0, "SAM's", 2 + _THIRD),
    _arm("agnostic-sam"),
    _arm("balanced-sam"),
    _arm("f-sam"),
    _arm("f-sam full gradient", 1.0, "F-SAM's", method="f-sam", along="mean"),
    _arm("gcsam"),
    _arm("gsam"),
    _arm("wsam"),
    _arm("looksam", 1.0, "SAM's", 1.2, k=5),
    _arm("gradient-norm", 1.0, "λ = SAM's ρ: equal to first order", 3.0),
    _arm("amp"),
    _arm("awp", 0.1, "authors': 0.005"),
    _arm("esam", 1.0, "SAM's", 1.5 + _THIRD, beta=0.6, gamma=0.5),
    _arm("saf", 3.0, "authors': λ = 0.3", 1.0, start_epoch=2, back=1),
    _arm("mesa", 8.0, "authors': λ = 0.8", 1 + _THIRD),
    _arm("sl-sam", 1.0, "SAM's", 2 * (2 + 0.5) * _THIRD, s=0.5),
    _arm("bayesian-sam", 1.0, "USAM's, while s is near 1", prior=5e-4, own={"lr": 2.0} | _FREE),
    _arm("adasam", 1.0, "SAM's", own={"lr": 0.005} | _FREE),
    _arm("lightsam I", 1.0, _HUNDREDFOLD, method="lightsam", rhos=_I, variant="I",
         own={"lr": 3.0} | _FREE),
    _arm("lightsam II", 1.0, _HUNDREDFOLD, method="lightsam", rhos=_ELEMENTWISE, variant="II",
         own={"lr": 0.05} | _FREE),
    _arm("lightsam III", 1.0, _HUNDREDFOLD, method="lightsam", rhos=_ELEMENTWISE, variant="III",
         own={"lr": 0.003} | _FREE),
    _arm("trace-sam", 0.1, "authors': 0.01"),
    _arm("det-sam", 10.0, "authors': 1"),
    _arm("frob-sam", 0.05, "authors': 0.005", 3.0),
)
# fmt: on

ARMS: Mapping[str, Arm] = MappingProxyType({arm.name: arm for arm in _ALL})
"""name → `Arm`, in the order of the tables."""

OMITTED: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(
        ("fedsam", "fedasam", "mofedsam"),
        "a round over clients is no step on a batch; it has an experiment of its own",
    )
)
"""Methods without an arm, and why."""

ALL = "all"


def chosen_arms(text: str) -> tuple[Arm, ...]:
    """The arms of some methods, with plain training and SAM.

    Args:
        text: names of methods, separated by commas, or ``all``.

    Raises:
        InputError: a method is unknown, or has no arm.
    """
    if text == ALL:
        return tuple(_ALL)
    wanted = {name.strip() for name in text.split(",") if name.strip()}
    known = {arm.method for arm in _ALL} - {"none"}
    for name in sorted(wanted - known):
        if name in OMITTED:
            raise InputError(f"{name} has no arm: {OMITTED[name]}")
        raise unknown("method", name, [ALL, *sorted(known)])
    return tuple(arm for arm in _ALL if arm.name in (PLAIN, SAM) or arm.method in wanted)
