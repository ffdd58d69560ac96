"""The optimizer underneath: built or taken over, and refused where it cannot be a base."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.optim import LBFGS, Optimizer

from lowland.core.errors import InputError, unknown


def make_base(
    params: Iterable[Any], base: type[Optimizer] | Optimizer | None, arguments: dict[str, Any]
) -> Optimizer:
    """The base optimizer, from a class or an instance.

    Raises:
        InputError: it cannot be a base, or does not hold these parameters.
    """
    if base is None:  # older SAM code names the argument so
        base = arguments.pop("base_optimizer", None)
    if isinstance(base, LBFGS) or (isinstance(base, type) and issubclass(base, LBFGS)):
        raise InputError(
            "LBFGS cannot be a base: it calls its closure many times a step and searches along a "
            "line; use SGD, AdamW or another optimizer that steps from one gradient"
        )
    if "sam_step" in getattr(base, "defaults", {}):
        raise InputError(
            "the base is sharpness-aware or wrapped by such an optimizer already: give a plain one"
        )
    if isinstance(base, Optimizer):
        _check_instance(params, base, arguments)
        return base
    if not (isinstance(base, type) and issubclass(base, Optimizer)):
        raise InputError(
            f"base is {base!r}: give a torch.optim class, such as torch.optim.SGD, or an instance"
        )
    params = list(params)
    if not params:
        raise InputError("the parameter list is empty: pass model.parameters() of a model with any")
    return base(params, **arguments)


def check_names(own: dict[str, Any], base: Optimizer) -> None:
    """Refuse a base that keeps hyperparameters of its own under one of our names."""
    name = type(base).__name__
    both = sorted(set(own) & set(base.defaults))
    if both:
        raise InputError(
            f"{name} has a hyperparameter {both[0]!r} of its own, and so has this method: the "
            "parameter groups cannot hold both; choose another base"
        )


def _check_instance(params: Iterable[Any], base: Optimizer, arguments: dict[str, Any]) -> None:
    if arguments:
        raise InputError(
            f"unexpected {', '.join(arguments)}: the base is an instance and has its settings "
            "already"
        )
    given: set[Tensor] = set()
    for item in params:
        if isinstance(item, dict):
            raise InputError(
                "parameter groups beside a base instance: the instance has its groups already; "
                "pass the parameters alone and set opt.param_groups[i]['rho']"
            )
        given.add(item[1] if isinstance(item, tuple) else item)
    held = {p for group in base.param_groups for p in group["params"]}
    if not given:
        raise InputError("the parameter list is empty: pass the parameters that the base holds")
    if given != held:
        raise InputError(
            f"the base holds {len(held)} parameters and {len(given)} others were given: "
            "pass exactly the ones that it holds"
        )


def skips_on_device(nonfinite: str, base: Optimizer) -> bool:
    """Whether skipping is left to the device; refused where the base cannot do it."""
    if nonfinite not in ("skip", "device"):
        raise unknown("nonfinite", nonfinite, ("skip", "device"))
    if nonfinite == "device" and not getattr(base, "_step_supports_amp_scaling", False):
        raise InputError(
            f"nonfinite='device' needs a base that honours found_inf, and {type(base).__name__} "
            "does not as it is: build it with fused=True, or use nonfinite='skip'"
        )
    return nonfinite == "device"


class AsOptimizer:
    """A step hook of the base optimizer, called with the sharpness-aware one."""

    def __init__(self, optimizer: Optimizer, hook: Callable[..., Any]) -> None:
        self._optimizer, self._hook = optimizer, hook

    def __call__(self, base: Optimizer, args: Any, kwargs: Any) -> Any:
        return self._hook(self._optimizer, args, kwargs)
