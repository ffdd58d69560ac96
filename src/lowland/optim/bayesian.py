"""Bayesian SAM: SAM's ascent, and a variance for every weight."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from lowland.core.errors import InputError
from lowland.core.perturbation import wide_dtype
from lowland.optim.checks import check_number, check_whole
from lowland.optim.gradient import Gradient, Part, remembered
from lowland.optim.perturbation import Perturbation
from lowland.optim.plan import Evaluate, Program, Update
from lowland.optim.sharpness_aware import SharpnessAware
from lowland.optim.step import Step

SCALE, MEAN = "sam_scale", "sam_mean"
EXAMPLES = "the variance is 1/(N·s), with N the number of training examples: give examples="
BUSY = "a sample of the posterior in the middle of a step: finish the step first"


@dataclass(frozen=True)
class Posterior:
    """[θ ~ N(w, 1/(N·s)), w+ε] with ε = ρ·g/s; u = m/s, from the running mean m of g̃ + δ·w.

    Attributes:
        examples: N.
        beta1, beta2: decays of m and s.
        prior: δ, precision of the prior over N; an L2 penalty of δ/2·‖w‖².
        damping: γ.
        initial: s₀.
        seed: of the noise, with the step.
    """

    examples: float
    beta1: float = 0.9
    beta2: float = 0.999
    prior: float = 1e-3
    damping: float = 0.1
    initial: float = 1.0
    seed: int = 0
    keeps_gradient: ClassVar[bool] = False
    splits: ClassVar[bool] = False
    needs_closure: ClassVar[bool] = True
    defaults: ClassVar[tuple[str, ...]] = ("beta1", "beta2", "prior", "damping")

    @staticmethod
    def check(rule: Perturbation) -> None:
        """Refuse another ε."""
        rule.check_unused("Bayesian SAM has an ε of its own, ρ·g/s")

    def perturbs(self, count: int, hyper: dict[str, Any]) -> bool:
        return True

    def __call__(self, step: Step) -> Program:
        first = yield Evaluate(at=step.displace(self.noise(step, 0), 1.0), for_w=True)
        g = first.gradient
        epsilon, new = self._ascend(step, g, self._scales(step, g))
        norm = step.norm(epsilon)
        step.look(norm)
        del first, g
        second = yield Evaluate(at=step.displace(epsilon, 1.0))
        yield Update(self._descend(step, second.gradient, new))

    def noise(self, step: Step, number: int) -> Gradient:
        """θ − w, drawn as a function of the seed, the step and `number`."""
        z = step.draw("normal", self.seed, number)
        widths = torch._foreach_mul(self._scales(step, z), self.examples)
        torch._foreach_sqrt_(widths)
        return z.like(torch._foreach_div(z.tensors, widths))

    def _scales(self, step: Step, like: Gradient) -> list[Tensor]:
        def scale(p: Tensor, t: Tensor) -> Tensor:
            held = remembered(step.state, p, SCALE)
            if held is None:
                return torch.full_like(t, self.initial, dtype=wide_dtype(t.dtype))
            # 0 stands where a first step was skipped on the device
            return torch.where(held > 0, held, self.initial)

        return [scale(p, t) for p, t in zip(like.params, like.tensors, strict=True)]

    def _ascend(
        self, step: Step, g: Gradient, scales: list[Tensor]
    ) -> tuple[Gradient, dict[Tensor, Tensor]]:
        """ε, and s with g taken in: β₂·s + (1−β₂)·(√s·|g| + δ + γ)."""
        hyper, moves = step.hyper, []
        new: dict[Tensor, Tensor] = {}
        held = dict(zip(g.params, scales, strict=True))
        for part in g:
            rho = part.group["rho"] * step.factor
            rho = -rho if part.group.get("maximize") else rho
            wide = [t.to(wide_dtype(t.dtype)) for t in part.tensors]
            s = [held[p] for p in part.params]
            steep = torch._foreach_mul(wide, rho)
            torch._foreach_div_(steep, s)
            moves.append(Part(part.group, part.params, list(steep)))
            floor, keep = hyper["prior"] + hyper["damping"], hyper["beta2"]
            taken_in = torch._foreach_sqrt(s)
            torch._foreach_mul_(taken_in, torch._foreach_abs(wide))
            torch._foreach_add_(taken_in, floor)
            torch._foreach_mul_(taken_in, 1 - keep)
            torch._foreach_add_(taken_in, s, alpha=keep)
            new.update(zip(part.params, taken_in, strict=True))
        step.stage(SCALE, g.like([new[p] for p in g.params]))
        return Gradient(moves), new

    def _descend(self, step: Step, u: Gradient, scales: dict[Tensor, Tensor]) -> Gradient:
        """m/s, with m ← β₁·m + (1−β₁)·(g̃ + δ·w)."""
        keep, prior = step.hyper["beta1"], step.hyper["prior"]
        u = u.where(lambda p: p in scales)
        means: list[Tensor] = []
        for part in u:
            sign = -1.0 if part.group.get("maximize") else 1.0
            wide = [t.to(wide_dtype(t.dtype)) for t in part.tensors]
            weights = [w.detach() for w in part.weights]
            taken_in = torch._foreach_add(wide, weights, alpha=sign * prior)
            torch._foreach_mul_(taken_in, 1 - keep)
            held = [remembered(step.state, p, MEAN) for p in part.params]
            old = [torch.zeros_like(t) if m is None else m for m, t in zip(held, wide, strict=True)]
            torch._foreach_add_(taken_in, old, alpha=keep)
            means += taken_in
        step.stage(MEAN, u.like(means))
        out = torch._foreach_div(means, [scales[p] for p in u.params])
        return u.like([t.to(p.dtype) for t, p in zip(out, u.params, strict=True)])


class BayesianSAM(SharpnessAware):
    """Möllenhoff & Khan 2023 (arXiv 2210.01620): SAM as a relaxation of Bayes, posterior N(w, σ²).

        θ ~ N(w, σ²), σ² = 1/(N·s);   g = ∇L(θ),  ε = ρ·g/s,  g̃ = ∇L(w + ε)
        m ← β₁·m + (1−β₁)·(g̃ + δ·w);   s ← β₂·s + (1−β₂)·(√s·|g| + δ + γ);   u = m/s

    all elementwise. The base optimizer steps along u: SGD without momentum and weight decay is the
    method, its `lr` the paper's α. Not `BalancedSAM`, which others call BSAM.

    Args:
        examples: N, of the training set. Required.
        rho: ρ. It multiplies g/s, not a unit vector: where s is near δ + γ, ε is ρ·g/(δ + γ). With
            ρ = 0 the step is the base optimizer's own.
        betas: β₁, β₂.
        prior: δ, an L2 penalty; leave out the base's weight decay.
        damping: γ.
        initial: s₀.
        seed: of the noise.
        **options: everything that `SharpnessAware` takes but `perturbation`, and the base
            optimizer's arguments.

    Running statistics of normalization layers move in the pass at θ, and its loss is ``last.loss``.

    Call as ``step(closure)`` or ``step(loss_fn=..., batch=...)``. ``with opt.posterior_sample(i):``
    has the weights at a sample, for predictions that average over several.

    Cost: 2 passes; a copy of the parameters, s, m, the noise. Under DDP all devices draw the same
    noise. Confidence: good for the rule, from notes on the paper that agree; low for the defaults.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: type[Optimizer] | Optimizer | None = None,
        *,
        examples: float | None = None,
        rho: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.999),
        prior: float = 1e-3,
        damping: float = 0.1,
        initial: float = 1.0,
        seed: int = 0,
        **options: Any,
    ) -> None:
        if examples is None:
            raise InputError(EXAMPLES)
        check_number("examples", examples, least=1.0)
        check_number("prior", prior, least=0.0)
        check_number("damping", damping, least=0.0)
        check_number("initial", initial, least=0.0)
        if initial == 0:
            raise InputError("initial is 0, and the gradient is divided by it: give s₀ above 0")
        if len(betas) != 2 or not all(0 <= b < 1 for b in betas):
            raise InputError(f"betas is {betas}: give two numbers in [0, 1)")
        if prior + damping == 0:
            raise InputError("prior and damping are both 0, so s could go to 0: make one larger")
        check_whole("seed", seed, least=0)
        plan = Posterior(float(examples), *betas, prior, damping, initial, seed)
        super().__init__(params, base, rho=rho, plan=plan, **options)

    @contextlib.contextmanager
    def posterior_sample(self, number: int) -> Iterator[None]:
        """The weights at a sample of N(w, 1/(N·s)); on leaving, exactly w.

        Args:
            number: which sample; the same number in the same step is the same sample.

        Raises:
            RuntimeError: a step is in progress.
        """
        engine, plan = self._engine, self._engine.plan
        if engine.away or engine.running:
            raise RuntimeError(BUSY)
        check_whole("number", number, least=0)
        assert isinstance(plan, Posterior)
        with torch.no_grad():
            step = Step(engine, 1.0, None)
            move = step.displace(plan.noise(step, number + 1), 1.0)
        try:
            with torch.no_grad():
                engine.depart(move)
            yield
        finally:
            engine.come_back()
