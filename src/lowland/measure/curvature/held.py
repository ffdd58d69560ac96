"""How much memory a graph holds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor


@contextlib.contextmanager
def held_bytes(known: Iterable[Tensor]) -> Iterator[Callable[[], int]]:
    """Counts the bytes that autograd saves inside, each storage once, those of `known` not.

    >>> x = torch.ones(1000, requires_grad=True)
    >>> with held_bytes([x]) as held:
    ...     y = x.exp().sin()
    >>> held()
    4000
    """
    seen: dict[int, int] = {}
    ignored = {tensor.untyped_storage().data_ptr() for tensor in known}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.layout == torch.strided:
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield lambda: sum(size for place, size in seen.items() if place not in ignored)


def storage_bytes(tensors: Iterable[Tensor], known: Iterable[Tensor]) -> int:
    """Bytes of the storages behind `tensors`, each once, those of `known` not."""
    ignored = {tensor.untyped_storage().data_ptr() for tensor in known}
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(size for place, size in storages.items() if place not in ignored)
