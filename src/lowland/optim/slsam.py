"""SL-SAM: both passes on a sampled share of the tensors."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from lowland.core.errors import InputError
from lowland.optim.checks import check_number, check_whole
from lowland.optim.gradient import Gradient, Part
from lowland.optim.plan import Evaluate, Program, Update
from lowland.optim.sharpness_aware import SharpnessAware
from lowland.optim.step import Step

LEAST = 1e-8
KEY = "sam_probability"


@dataclass(frozen=True)
class SampledTensors:
    """[w, w+ε] with gradients for the tensors drawn in this step alone."""

    s: float = 0.5
    alpha: float = 1e-3
    seed: int = 0
    keeps_gradient: ClassVar[bool] = False
    splits: ClassVar[bool] = False
    needs_closure: ClassVar[bool] = True
    draws_tensors: ClassVar[bool] = True
    defaults: ClassVar[tuple[str, ...]] = ("s", "alpha")

    def perturbs(self, count: int, hyper: dict[str, Any]) -> bool:
        return True

    def __call__(self, step: Step) -> Program:
        if step.split:
            raise InputError("SL-SAM draws whole tensors, and these are sharded: use DDP")
        params = step.params
        old = [self._probability(step, p) for p in params]
        active = self._draw(old, step)
        chosen = [params[i] for i in active]
        first = yield Evaluate(only=chosen)
        g = first.gradient
        if not g.parts:  # drawn were tensors that the loss does not know
            yield Update(g)
            return
        sizes = dict(zip(g.params, step.norms(g.params, g.tensors), strict=True))
        at = step.perturb(first)
        del first, g
        second = yield Evaluate(at=at, only=chosen)
        ratios = {i: float(sizes[params[i]]) / old[i] for i in active if params[i] in sizes}
        self._stage(params, reweighted(old, ratios, step.hyper["alpha"], step.hyper["s"]), step)
        yield Update(second.gradient)

    def _probability(self, step: Step, param: Tensor) -> float:
        held = step.state[param].get(KEY) if param in step.state else None
        # 0 stands where a first step was skipped on the device
        return float(held) if held is not None and held > 0 else float(step.hyper["s"])

    def _draw(self, probabilities: Sequence[float], step: Step) -> list[int]:
        for number in range(1000):
            generator = step.generator(self.seed, number)
            draws = torch.rand(len(probabilities), generator=generator).tolist()
            active = [i for i, (u, p) in enumerate(zip(draws, probabilities, strict=True)) if u < p]
            if active:
                return active
        return [max(range(len(probabilities)), key=lambda i: probabilities[i])]

    @staticmethod
    def _stage(params: list[Tensor], new: list[float], step: Step) -> None:
        group = step.hyper
        values = [torch.tensor(p, dtype=torch.float64) for p in new]
        step.stage(KEY, Gradient([Part(group, params, values)]))


def reweighted(
    old: Sequence[float], ratios: dict[int, float], alpha: float, s: float
) -> list[float]:
    """New probabilities: p_k·exp(−α·c_k/p_k) of the active tensors, brought to Σp = s·K, p <= 1.

    c_k = max_j r_j² − r_k² with r = ‖g_k‖/p_k: the tensor with the largest ratio keeps its weight.

    Args:
        old: p of every tensor.
        ratios: r of the active tensors.
        alpha: α.
        s: the share that is active on average.
    """
    largest = max((r * r for r in ratios.values()), default=0.0)
    weights = list(old)
    for i, r in ratios.items():
        weights[i] = old[i] * float(torch.tensor(-alpha * (largest - r * r) / old[i]).exp())
    out = [0.0] * len(old)
    order = sorted(range(len(old)), key=lambda i: weights[i])
    masses = list(itertools.accumulate(weights[i] for i in order))  # sums, never differences
    budget = s * len(old)
    for left in range(len(old), 0, -1):
        i, mass = order[left - 1], masses[left - 1]
        if budget >= left or weights[i] * budget > mass:
            out[i] = 1.0
        else:
            out[i] = budget * (weights[i] / mass if mass > 0 else 1 / left)
        budget -= out[i]
    return [min(1.0, max(LEAST, p)) for p in out]


class SLSAM(SharpnessAware):
    """Cheng et al. 2026 (arXiv 2602.09395): SAM on a sampled share of the tensors, in both passes.

        active tensors A ~ Bernoulli(p);   ε = ρ·g_A/‖g_A‖,   the base steps along g̃_A on A alone
        p_k ∝ p_k·exp(−α·c_k/p_k),   c_k = max_j (‖g_j‖/p_j)² − (‖g_k‖/p_k)²,   Σp = s·K

    Tensors with large gradients for their probability are drawn more often. Inactive ones have no
    gradient at all, and the base optimizer leaves them and their state as they are.

    Args:
        rho: ρ over the active tensors; 0.01 in the paper's runs.
        s: the share of active tensors; 0.5 by the authors' default, 0.2 in their runs; 1 is SAM.
        alpha: α.
        seed: of the draws, with the step.
        **options: everything that `SharpnessAware` takes, and the base optimizer's arguments.

    Call as ``step(closure)`` or ``step(loss_fn=..., batch=...)``; `requires_grad` is switched in
    both passes, so a compiled model compiles anew for each set, and DDP must be built with
    ``find_unused_parameters=True``. Cost: 2 forwards and 2 partial backwards, down to the lowest
    active tensor, 1.5 to 1.6 plain steps at s = 0.2; a copy of the active tensors, one number for
    each tensor, which is read in every step. Gradients of the others are saved, and what layers
    below the lowest active tensor keep for the backward; above it inactive layers keep as much as
    active ones, since normalization and ReLU need it for the gradients of their inputs. So where
    activations are most of the memory, a step with a low active tensor needs a plain step's and
    the copy. Confidence: high, the authors' code agrees.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: type[Optimizer] | Optimizer | None = None,
        *,
        rho: float = 0.05,
        s: float = 0.5,
        alpha: float = 1e-3,
        seed: int = 0,
        **options: Any,
    ) -> None:
        check_number("s", s, least=0.0)
        if not 0 < s <= 1:
            raise InputError(f"s is {s}: give the share of active tensors, in (0, 1]")
        check_number("alpha", alpha, least=0.0)
        check_whole("seed", seed, least=0)
        super().__init__(params, base, rho=rho, plan=SampledTensors(s, alpha, seed), **options)
