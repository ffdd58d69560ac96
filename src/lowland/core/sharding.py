"""Sharded tensors (DTensor): the share of this process, and who holds the rest.

Everything elementwise works on shares alone. What sums over all elements (norms, inner products)
has to be summed over the process groups that `split_groups` names.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

ORDINARY = frozenset({Tensor, nn.Parameter})
"""What nearly all tensors are: they need not be asked, which would cost as much as their share of
a small optimizer step."""


def is_sharded(tensor: Tensor) -> bool:
    """Whether `tensor` is a DTensor.

    Nobody can hold one unless its module has been imported, so nothing is imported here.
    """
    if type(tensor) in ORDINARY:
        return False
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def any_sharded(tensors: Sequence[Tensor]) -> bool:
    """Whether any of them is a DTensor."""
    module = sys.modules.get("torch.distributed.tensor")
    if module is None:
        return False
    # by type first: asking each tensor costs as much as a small optimizer step
    return any(issubclass(kind, module.DTensor) for kind in set(map(type, tensors)))


def local(tensor: Any) -> Any:
    """The share of this process, in the same memory; an ordinary tensor is its own share."""
    if not isinstance(tensor, Tensor) or not is_sharded(tensor):
        return tensor
    with torch.no_grad():  # otherwise the share is a new object of the autograd graph
        share = tensor.to_local()  # type: ignore[attr-defined]
    return share.wait() if hasattr(share, "wait") else share


def local_gradient(param: Tensor, gradient: Tensor) -> Tensor:
    """The share of a gradient that lies where the share of its parameter lies."""
    if not is_sharded(gradient):
        return gradient
    sharded: Any = gradient
    wanted: Any = param
    if sharded.placements != wanted.placements:
        sharded = sharded.redistribute(placements=wanted.placements)
    return local(sharded)  # type: ignore[no-any-return]


def placed_like(share: Tensor, param: Tensor) -> Tensor:
    """`share` as part of a tensor of the shape and placement of `param`; itself if not sharded."""
    if not is_sharded(param) or is_sharded(share):
        return share
    from torch.distributed.tensor import DTensor

    whole: Any = param
    return DTensor.from_local(
        share,
        whole.device_mesh,
        whole.placements,
        run_check=False,
        shape=whole.shape,
        stride=whole.stride(),
    )


def split_groups(param: Tensor) -> tuple[Any, ...]:
    """The process groups over which the elements of `param` are split; none for a whole tensor."""
    if not is_sharded(param):
        return ()
    whole: Any = param
    mesh = whole.device_mesh
    # not "is_shard": the strided shards of two-dimensional meshes do not call themselves so
    return tuple(mesh.get_group(i) for i, p in enumerate(whole.placements) if not p.is_replicate())


def rows_are_whole(param: Tensor) -> bool:
    """Whether this process has whole rows of `param`: it is not split, or along the first axis."""
    if not is_sharded(param):
        return True
    whole: Any = param
    return all(p.is_replicate() or getattr(p, "dim", None) == 0 for p in whole.placements)
