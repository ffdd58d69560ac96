"""The largest eigenvalue of the Hessian of every network of a stack, all at once.

`lowland.measure.max_eigenvalue` certifies one network's; hundreds of small ones are looked at here
together by plain Lanczos with so many products, without a certificate.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lowland.core.seeds import generator
from lowland.train.stack import Stack

ROWS = 16_384
"""Rows, networks times examples, whose graph is held at a time."""

_TINY = 1e-12


def largest_eigenvalues(
    stack: Stack,
    inputs: Tensor,
    labels: Tensor,
    *,
    products: int = 12,
    parameters: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> Tensor:
    """(K,) λ_max of the Hessian of each network's mean cross-entropy, from below.

    Lanczos with full reorthogonalisation from one random vector: the largest Ritz value of a
    Krylov space of `products` vectors, which is never above λ_max but for rounding.

    Args:
        stack: the networks.
        inputs: (n, ...) the examples, the same for all networks.
        labels: (n,) or (K, n).
        products: products with the Hessian.
        parameters: name -> (K, ...) weights to look at in place of the stack's own.
        seed: of the start vector.

    Returns:
        The eigenvalues; NaN for a network of which some product is not finite.

    Cost: a gradient, and `products` times about two more, of all examples; `products` vectors of
    each network are held.
    """
    size = max(1, ROWS // len(inputs))
    weights = stack.parameters if parameters is None else parameters
    count = len(next(iter(weights.values())))
    labels = labels.expand(count, len(inputs))
    parts = [
        _lanczos(
            stack,
            {name: p[first : first + size] for name, p in weights.items()},
            inputs,
            labels[first : first + size],
            min(products, stack.parameter_count),
            seed,
        )
        for first in range(0, count, size)
    ]
    return torch.cat(parts)


def _lanczos(
    stack: Stack, own: dict[str, Tensor], inputs: Tensor, labels: Tensor, products: int, seed: int
) -> Tensor:
    multiply = _Hessian(stack, own, inputs, labels)
    draws = generator("cpu", seed, "lanczos")
    start = torch.randn(stack.parameter_count, generator=draws).to(inputs.device)
    vector = (start / start.norm()).expand(len(labels), -1)
    basis: list[Tensor] = []
    lost = torch.zeros(len(labels), dtype=torch.bool, device=inputs.device)
    matrix = torch.zeros(len(labels), products, products, dtype=torch.float64)
    for i in range(products):
        basis.append(vector)
        image = multiply(vector)
        lost |= ~image.isfinite().all(1)
        image = image.nan_to_num(0.0, 0.0, 0.0)
        held = torch.stack(basis, dim=1)
        along = torch.einsum("kmp,kp->km", held, image)
        matrix[:, i, i] = along[:, i].double().cpu()
        image = image - torch.einsum("km,kmp->kp", along, held)
        image = image - torch.einsum("km,kmp->kp", torch.einsum("kmp,kp->km", held, image), held)
        length = image.norm(dim=1)
        if i + 1 < products:
            matrix[:, i, i + 1] = matrix[:, i + 1, i] = length.double().cpu()
        vector = image / length.clamp_min(_TINY)[:, None]
    found = torch.linalg.eigvalsh(matrix)[:, -1].to(inputs.device)
    return torch.where(lost, torch.nan, found)


class _Hessian:
    """Products with the Hessians of some networks, from a graph that is made once."""

    def __init__(
        self, stack: Stack, own: dict[str, Tensor], inputs: Tensor, labels: Tensor
    ) -> None:
        leaves = {name: p.detach().requires_grad_() for name, p in own.items()}
        logits = stack.call(leaves, inputs, shared=True)
        losses = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        total = losses.view_as(labels).mean(1).sum()  # a network's terms hold its own weights
        self._leaves = list(leaves.values())
        gradients = torch.autograd.grad(total, self._leaves, create_graph=True)
        self._gradient = torch.cat([g.flatten(1) for g in gradients], dim=1)

    def __call__(self, vectors: Tensor) -> Tensor:
        """(k, d) -> (k, d)."""
        found = torch.autograd.grad(
            self._gradient, self._leaves, grad_outputs=vectors, retain_graph=True
        )
        return torch.cat([g.flatten(1) for g in found], dim=1)
