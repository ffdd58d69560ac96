"""Training of many two-layer networks side by side, one example at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lowland.studies.two_layer.activations import Activation, with_ones
from lowland.studies.two_layer.draws import Draw, Network


@dataclass(frozen=True)
class Plan:
    """What one run does with its draw.

    Attributes:
        rho: radius of SAM; 0 for plain SGD.
        penalty: λ of the gradient-norm regulariser λ‖∇ℓ_i‖.
        weight_decay: η·λ_wd·θ is taken off every parameter at every step.
    """

    rho: float = 0.0
    penalty: float = 0.0
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Batch:
    """Draws stacked: runs × what each has."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor
    order: Tensor


class Trainer:
    """SGD on ℓ_i = (f(x_i) - y_i)², one example per step, for many runs at once.

    With one example everything follows from r = f - y, σ and σ': with x̃ = (x, 1),

        ∇_W f = a·σ'·x̃,  ∇_a f = σ,  ∇_c f = 1,  N² = ‖∇f‖² = ‖σ‖² + ‖x̃‖²·‖a·σ'‖² + 1,
        ∇ℓ = 2r·∇f,  ‖∇ℓ‖ = 2|r|·N.

    SAM moves by ρ·sign(r)·∇f/N, which changes h = W·x̃ by (ρ·sign(r)/N)·a·σ'·‖x̃‖²: the perturbed
    gradient needs no perturbed copy of the weights. The regulariser's gradient is
    λ·2·(sign(r)·N·∇f + |r|·∇N). Both act while i ≤ `share` of all steps.

    Cost: per step about 20 operations on (runs, units) and two on (runs, d + 1, units).
    """

    def __init__(
        self, draws: Sequence[Draw], plans: Sequence[Plan], activation: Activation, *, lr: float
    ) -> None:
        self.activation, self.lr = activation, lr
        self.data = Batch(*(torch.stack([getattr(d, name) for d in draws]) for name in _FIELDS))
        self.network = Network(
            torch.cat([d.student.weight for d in draws]),
            torch.cat([d.student.outer for d in draws]),
            torch.cat([d.student.offset for d in draws]),
        )
        self.rho = torch.tensor([plan.rho for plan in plans])
        self.penalty = torch.tensor([plan.penalty for plan in plans])
        self.decay = torch.tensor([plan.weight_decay for plan in plans])
        self._perturbs = bool((self.rho > 0).any())
        self._penalises = bool((self.penalty > 0).any())
        self._decays = bool((self.decay > 0).any())

    def run(
        self,
        points: Sequence[int],
        record: Callable[[int, Network, Batch], None],
        *,
        share: float = 0.5,
    ) -> None:
        """Train to the end of the order; `record` is called before each step in `points`."""
        steps = self.data.order.shape[1]
        asked = set(points)
        inputs, targets = with_ones(self.data.x), self.data.y
        runs = torch.arange(len(self.rho))
        last = share * steps
        for i in range(steps):
            if i in asked:
                record(i, self.network, self.data)
            row = self.data.order[:, i]
            self._step(inputs[runs, row], targets[runs, row], regularised=i <= last)
        record(steps, self.network, self.data)

    def _step(self, x: Tensor, y: Tensor, *, regularised: bool) -> None:
        net = self.network
        h = torch.bmm(x[:, None], net.weight)[:, 0]
        value, slope = self.activation.both(h)
        r = (net.outer * value).sum(1) + net.offset - y
        outer = net.outer
        if regularised and self._perturbs:
            # the same quantities at the perturbed weights
            along = outer * slope
            length = self._length(x, value, along)
            s = (self.rho * r.sign() / length)[:, None]
            square = x.square().sum(1)[:, None]
            outer = outer + s * value
            h = h + (s * square) * along
            offset = net.offset + s[:, 0]
            value, slope = self.activation.both(h)
            r = (outer * value).sum(1) + offset - y
        inner, values, one = 2 * r[:, None] * outer * slope, 2 * r[:, None] * value, 2 * r
        if regularised and self._penalises:
            more = self._penalty(x, value, slope, outer, r)
            inner, values, one = inner + more[0], values + more[1], one + more[2]
        self._descend(x, inner, values, one)

    @staticmethod
    def _length(x: Tensor, value: Tensor, along: Tensor) -> Tensor:
        """N (runs,) = ‖∇f‖."""
        square = x.square().sum(1)
        return (value.square().sum(1) + square * along.square().sum(1) + 1).sqrt()

    def _penalty(
        self, x: Tensor, value: Tensor, slope: Tensor, outer: Tensor, r: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradient of λ·2|r|·N by h, a and c."""
        along = outer * slope
        length = self._length(x, value, along)[:, None]
        square = x.square().sum(1)[:, None]
        by_h = value * slope
        if self.activation.second is not None:
            by_h = by_h + square * outer * along * self.activation.second(value, slope)
        sign, size = r.sign()[:, None], r.abs()[:, None]
        scale = 2 * self.penalty[:, None]
        inner = scale * (sign * length * along + size * by_h / length)
        values = scale * (sign * length * value + size * square * along * slope / length)
        return inner, values, (scale * sign * length)[:, 0]

    def _descend(self, x: Tensor, inner: Tensor, values: Tensor, one: Tensor) -> None:
        net, lr = self.network, self.lr
        if self._decays:
            kept = 1 - lr * self.decay
            net.weight.mul_(kept[:, None, None])
            net.outer.mul_(kept[:, None])
            net.offset.mul_(kept)
        net.weight.baddbmm_(x[:, :, None], inner[:, None], alpha=-lr)
        net.outer.sub_(values, alpha=lr)
        net.offset.sub_(one, alpha=lr)


_FIELDS = ("x", "y", "test_x", "test_y", "order")
