"""muP²: a perturbation that acts alike at every width."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lowland.core.errors import InputError
from lowland.optim.metrics import Fixed
from lowland.optim.perturbation import Perturbation
from lowland.optim.sharpness_aware import SharpnessAware

Shapes = nn.Module | Mapping[str, Sequence[int]]
INPUT, HIDDEN, OUTPUT, FIXED = "input", "hidden", "output", "fixed"
BACKWARDS = (nn.Embedding, nn.EmbeddingBag, nn.modules.conv._ConvTransposeNd)
"""Modules whose weight has the axis that is summed over first."""
WRAPPERS = ("module.", "_orig_mod.")


@dataclass(frozen=True)
class Role:
    """What a tensor is when the network gets wider.

    Attributes:
        kind: "input" (width out of it alone: first layers, embeddings, biases, scales and shifts of
            hidden layers), "hidden" (width on both sides), "output" (width into it alone) or
            "fixed".
        ratio: k = width / base width.
    """

    kind: str
    ratio: float

    @property
    def scale(self) -> float:
        """k, 1, 1/k, 1: what ε is multiplied by."""
        return {INPUT: self.ratio, OUTPUT: 1 / self.ratio}.get(self.kind, 1.0)


def roles(model: nn.Module, base_model: Shapes) -> dict[str, Role]:
    """The role of every parameter, from a network of base width with the same names.

    Args:
        model: the network.
        base_model: the same network at base width, or its shapes by name.

    Raises:
        InputError: names or numbers of axes differ, or no shape does and the widths are not equal.
    """
    base = base_model
    shapes = dict(base.named_parameters()) if isinstance(base, nn.Module) else dict(base)
    sizes = {_bare(n): tuple(s.shape if isinstance(s, Tensor) else s) for n, s in shapes.items()}
    backwards = {id(p) for m in model.modules() if isinstance(m, BACKWARDS) for p in [m.weight]}
    found = {}
    for name, p in model.named_parameters():
        name = _bare(name)
        if name not in sizes or len(sizes[name]) != p.ndim:
            raise InputError(
                f"the base model has no parameter like {name} {tuple(p.shape)}: build it by the "
                "same code, with another width"
            )
        found[name] = _role(p, sizes[name], id(p) in backwards)
    return found


def _bare(name: str) -> str:
    """The name without what wrappers (DDP, torch.compile) put before it."""
    while name.startswith(WRAPPERS):
        name = name.partition(".")[2]
    return name


def _role(param: Tensor, base: tuple[int, ...], backwards: bool) -> Role:
    ratios = [n / m for n, m in zip(param.shape, base, strict=True)]
    if param.ndim < 2:
        return Role(INPUT, ratios[0]) if ratios and ratios[0] != 1 else Role(FIXED, 1.0)
    out, into = (ratios[1], ratios[0]) if backwards else (ratios[0], ratios[1])
    if out == into == 1:  # class tokens and positions, (1, T, d)
        rest = [r for r in ratios[2:] if r != 1]
        return Role(INPUT, rest[0]) if rest else Role(FIXED, 1.0)
    if out != 1 and into != 1:
        return Role(HIDDEN, into)
    if out != 1:
        return Role(INPUT, out)
    return Role(OUTPUT, into)


def mup_groups(model: nn.Module, base_model: Shapes, lr: float) -> list[dict[str, Any]]:
    """Parameter groups with the step sizes of μP for SGD: η·k, η, η/k by role.

    Args:
        model: the network.
        base_model: the same network at base width, or its shapes by name.
        lr: η at base width.
    """
    groups: dict[float, list[Tensor]] = {}
    params = {_bare(name): p for name, p in model.named_parameters()}
    for name, role in roles(model, base_model).items():
        groups.setdefault(role.scale, []).append(params[name])
    return [{"params": group, "lr": lr * scale} for scale, group in groups.items()]


class MuP2(SharpnessAware):
    """Haas et al. 2024 (arXiv 2411.00075): ε whose effect on every layer is the same at any width.

        ε_l = ρ·s_l·g_l / D,   D = √(Σ s_l·‖g_l‖²),   s = k, 1, 1/k for input, hidden, output layers

    with k = width / base width; fixed tensors have s = 1. At k = 1 this is SAM. It is the decoupled
    rule: D counts every kind of layer alike at any width, where the coupled formula of the paper's
    general family holds for infinite width only.

    Args:
        model: the network. Required.
        base_model: the same network at base width, or its shapes by name. Required: roles are told
            by which axes grow.
        rho: ρ, tuned at base width.
        perturbation: "global" or "local", as for `SAM`.
        **options: everything that `SharpnessAware` takes, and the base optimizer's arguments.

    It belongs to a network in μP: see `mup_groups` for step sizes; variances of initial weights are
    1 (input), 1/width (hidden) and 1/width² or 0 (output). `coordinate_check` tries your own model.
    Cost: 2 passes; one copy of the parameters, one more while ε is built. Confidence: medium,
    derived, and in agreement with the paper's tables.

    Raises:
        InputError: `model` or `base_model` is missing, or does not fit.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: type[Optimizer] | Optimizer | None = None,
        *,
        model: nn.Module | None = None,
        base_model: Shapes | None = None,
        rho: float = 0.05,
        perturbation: str = "global",
        **options: Any,
    ) -> None:
        if model is None or base_model is None:
            raise InputError(
                "muP² tells layers apart by what grows with the width: pass model= and "
                "base_model= (the same network at base width, or its shapes by name)"
            )
        named = {_bare(name): p for name, p in model.named_parameters()}
        found = roles(model, base_model)
        factors: dict[Tensor, float] = {
            named[name]: role.scale**0.5 for name, role in found.items()
        }
        rule = Perturbation(metric=Fixed(factors=factors), across=perturbation)
        super().__init__(params, base, rho=rho, model=model, perturbation=rule, **options)


@torch.no_grad()
def coordinate_check(
    make: Callable[[int], tuple[nn.Module, SharpnessAware]],
    widths: Sequence[int],
    loss: Callable[[nn.Module], Tensor],
    seeds: Sequence[int] = (0, 1, 2),
) -> dict[str, list[float]]:
    """How much ε changes each layer's own output, by width: constant if the rule carries over.

    For every module with a weight: the root mean square of its output at w+ε minus at w, its input
    being that of the network at w; mean over seeds.

    Args:
        make: width → (network, optimizer over it), built anew.
        widths: the widths to try.
        loss: network → loss on the same data for every width.
        seeds: of torch's generator before each network is made.

    Returns:
        Module name → one number for each width.
    """
    table: dict[str, list[float]] = {}
    for width in widths:
        sums: dict[str, float] = {}
        for seed in seeds:
            torch.manual_seed(seed)
            for name, change in _changes(*make(width), loss).items():
                sums[name] = sums.get(name, 0.0) + change / len(seeds)
        for name, change in sums.items():
            table.setdefault(name, []).append(change)
    return table


def _changes(
    model: nn.Module, opt: SharpnessAware, loss: Callable[[nn.Module], Tensor]
) -> dict[str, float]:
    seen: dict[str, tuple[nn.Module, tuple[Any, ...], Tensor]] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
            if isinstance(out, Tensor) and name not in seen:
                seen[name] = (module, tuple(_detached(a) for a in args), out.detach().clone())

        return hook

    owners = [
        (n, m) for n, m in model.named_modules() if isinstance(getattr(m, "weight", None), Tensor)
    ]
    hooks = [module.register_forward_hook(keep(name)) for name, module in owners]
    try:
        with torch.enable_grad():
            loss(model).backward()  # type: ignore[no-untyped-call]
    finally:
        for hook in hooks:
            hook.remove()
    changes = {}
    with opt.perturbed():
        for name, (module, args, before) in seen.items():
            after = module(*args)
            changes[name] = float((after - before).square().mean().sqrt())
        with torch.enable_grad():
            loss(model).backward()  # type: ignore[no-untyped-call]
    opt.abandon()
    return changes


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value
