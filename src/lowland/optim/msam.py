"""m-SAM: an ε for every m examples of the batch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch.optim import Optimizer

from lowland.core.errors import InputError
from lowland.optim.checks import check_whole
from lowland.optim.gradient import WeightedMean, apart, owned
from lowland.optim.plan import Combine, Evaluate, Program, Update
from lowland.optim.sharpness_aware import SharpnessAware
from lowland.optim.step import Step


@dataclass(frozen=True)
class PerShard:
    """[w, w+ε_s] for each shard s of m examples; u is the example-weighted mean of the g̃_s.

    Attributes:
        m: examples per shard; None takes the caller's micro-batches.
        combine: what is made of (g_s, g̃_s) instead of g̃_s.
    """

    m: int | None
    combine: Combine | None = None
    splits: ClassVar[bool] = True
    defaults: ClassVar[tuple[str, ...]] = ("m",)

    @property
    def keeps_gradient(self) -> bool:
        return self.combine is not None

    def perturbs(self, count: int, hyper: dict[str, Any]) -> bool:
        return True

    def __call__(self, step: Step) -> Program:
        assert step.examples is not None
        mean = WeightedMean()
        for part in self._parts(step, step.examples):
            first = yield Evaluate(part=part, ascent=self.combine is None)
            at = step.perturb(first)
            g = None if self.combine is None else owned(first.gradient)
            del first
            second = yield Evaluate(at=at, part=part)
            u = second.gradient
            if self.combine is not None and g is not None:
                # g's memory is that of the step's own mean of g, which goes on growing
                u = apart(self.combine(g, u, step), g)
            mean.add(u, second.examples)
            del second, u  # or its gradient would live through the next shard's passes
        yield Update(mean.value(final=True))

    @staticmethod
    def _parts(step: Step, examples: int) -> list[slice | int]:
        m = step.hyper["m"]
        if step.micro_batches is not None:
            if m is not None:
                raise InputError(
                    f"batches= beside m={m}: the micro-batches are the shards then; build MSAM "
                    "without m, or pass one batch="
                )
            return list(range(step.micro_batches))
        if m is None:
            raise InputError(
                "MSAM without m takes micro-batches: pass batches=[...], or build it with m="
            )
        return [slice(i, min(i + m, examples)) for i in range(0, examples, m)]


class MSAM(SharpnessAware):
    """Foret et al. 2021; Behdin et al. 2023 (arXiv 2302.09693): SAM with m below the batch size.

        ε_s = ρ·g_s / (‖g_s‖ + 1e-12) on shard s of m examples,   u = Σ_s (n_s/b)·∇L_s(w + ε_s)

    Every shard starts from the same w; one base step at the end. If m does not divide the batch,
    the last shard is smaller and weighs less. This is what S devices with m examples each do when
    they perturb by their own gradients. Normalization layers see shards, not the batch.

    Args:
        m: examples per ε. Small m means a stronger effect at the same ρ. Without m, the caller's
            micro-batches are the shards: ``opt.step(loss_fn=..., batches=[...])``.
        rho: ρ = ‖ε_s‖.
        combine: (g_s, g̃_s, step) → u_s, whose mean is descended instead: `MinusOrthogonal` is GSAM
            on shards.
        **options: everything that `SharpnessAware` takes, and the base optimizer's arguments.

    Call as ``opt.step(loss_fn=per_example_loss, batch=(x, y))``. Cost: 2 passes over the batch in
    shards; a copy of the parameters and one accumulator. Confidence: good, from the texts.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: type[Optimizer] | Optimizer | None = None,
        *,
        m: int | None = None,
        rho: float = 0.05,
        combine: Combine | None = None,
        **options: Any,
    ) -> None:
        if m is not None:
            check_whole("m", m, least=1)
        super().__init__(params, base, rho=rho, plan=PerShard(m, combine), **options)
