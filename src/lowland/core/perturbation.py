"""Pure arithmetic of perturbations: norms and scalings of lists of tensors.

A perturbation of weights w by a direction d under a metric M has the form ε = φ(n)·M·d, where n is
one norm over all tensors together. These functions know nothing of optimizers or models, so that
optimizers and instruments share them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type that sums and state are kept in: float32 for the half types, else the type itself.

    >>> wide_dtype(torch.bfloat16)
    torch.float32
    """
    return torch.float32 if dtype in HALF else dtype


def tensor_norms(tensors: Sequence[Tensor], order: float = 2.0) -> list[Tensor]:
    """The norm of each tensor, Euclidean or of another order, accumulated in float32 at least.

    Half-precision tensors would overflow in their own type (a float16 norm is infinite from 65504
    on), so their norms are float32.
    """
    tensors = list(tensors)
    if not tensors:
        return []
    if any(t.dtype in HALF for t in tensors):
        return [torch.linalg.vector_norm(t, order, dtype=wide_dtype(t.dtype)) for t in tensors]
    return list(torch._foreach_norm(tensors, order))


def combine_norms(norms: Sequence[Tensor], order: float = 2.0) -> Tensor:
    """(Σ_l n_l^q)^(1/q): the norm of everything, from the norm of each part (a 0-dim tensor)."""
    if not norms:
        return torch.zeros(())
    first = norms[0]
    same = all(n.dtype == first.dtype and n.device == first.device for n in norms)
    if not same:
        wide = torch.float64 if any(n.dtype == torch.float64 for n in norms) else torch.float32
        norms = [n.to(first.device, wide) for n in norms]
    total: Tensor = torch.linalg.vector_norm(torch.stack(list(norms)), order)
    return total


def global_norm(tensors: Sequence[Tensor], order: float = 2.0) -> Tensor:
    """‖t‖ = (Σ_l ‖t_l‖^q)^(1/q) over all tensors together, q = 2 or `order`, as a 0-dim tensor.

    Accumulated in float32 at least. Cost: one read of the tensors.

    >>> global_norm([torch.tensor([3.0]), torch.tensor([[4.0]])])
    tensor(5.)
    """
    return combine_norms(tensor_norms(tensors, order), order)


def centralized(tensor: Tensor) -> Tensor:
    """The tensor less its mean over all axes but the first.

    >>> centralized(torch.tensor([[1.0, 3.0], [5.0, 5.0]]))
    tensor([[-1.,  1.],
            [ 0.,  0.]])
    """
    wide = tensor.to(wide_dtype(tensor.dtype))
    axes = tuple(range(1, tensor.ndim))
    return (wide - wide.mean(axes, keepdim=True)).to(tensor.dtype)


def inner_product(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    """⟨a, b⟩ = Σ_l Σ_i Re(ā_li·b_li) over all tensors together: 0-dim, float32 at least."""
    products = []
    for a, b in zip(left, right, strict=True):
        wide = wide_dtype(a.dtype)
        product = a.to(wide).conj() * b.to(wide)
        products.append(product.real.sum() if product.is_complex() else product.sum())
    return torch.stack(products).sum() if products else torch.zeros(())


def all_finite(tensors: Sequence[Tensor]) -> Tensor:
    """Whether every element is finite, as a 0-dim boolean tensor (no host synchronisation).

    Cost: one read and write of the tensors in one fused call where the types allow it.
    """
    if not tensors:
        return torch.ones((), dtype=torch.bool)
    found = non_finite_flag(tensors[0].device)
    mark_non_finite(tensors, found)
    return found == 0


def non_finite_flag(device: torch.device) -> Tensor:
    """A fresh flag for `mark_non_finite`: a float32 scalar, 0 for finite and 1 for not."""
    return torch.zeros((), dtype=torch.float32, device=device)


def mark_non_finite(tensors: Sequence[Tensor], found: Tensor) -> None:
    """Set the float32 scalar `found` to 1 if any element of `tensors` is not finite.

    The fused kernel behind gradient scalers does this in one call; scaling by one leaves every
    finite value as it is.
    """
    if not tensors:
        return
    one = torch.ones((), dtype=torch.float32, device=found.device)
    try:
        torch._amp_foreach_non_finite_check_and_unscale_(list(tensors), found, one)
    except RuntimeError:  # complex, sparse, on several devices: not what the kernel takes
        for t in tensors:
            t = t.coalesce().values() if t.is_sparse else t
            bad = ~torch.isfinite(t).all()
            torch.maximum(found, bad.to(found.device, torch.float32), out=found)


def unscale(tensors: Sequence[Tensor], scale: Tensor, found: Tensor) -> None:
    """Divide `tensors` by the 0-dim `scale` in place, and mark in `found` what is not finite.

    The reciprocal is taken in float64, as torch's gradient scaler does, so that both give the same
    bits.
    """
    inverse = scale.double().reciprocal().float()
    alike: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for t in tensors:
        values = t._values() if t.is_sparse else t
        alike.setdefault((values.device, values.dtype), []).append(values)
    for (device, _), members in alike.items():
        here = found if device == found.device else found.to(device)
        torch._amp_foreach_non_finite_check_and_unscale_(members, here, inverse.to(device))
        if here is not found:
            torch.maximum(found, here.to(found.device), out=found)
