"""What an update has to do, counted without doing it: operations, bytes and calls.

The network runs on torch's device "meta", where tensors have shapes and no values. Floating-point
operations are those of products and convolutions (`torch.utils.flop_counter`); bytes are what every
call reads and writes, as if nothing stayed in a cache between two of them and nothing were fused;
calls are those that are no views, each of them a kernel or more.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

PRODUCTS = {"addmm", "bmm", "convolution", "convolution_backward", "mm"}
"""Calls whose time is bounded by operations; that of the others is by bytes."""


@dataclass(frozen=True)
class Work:
    """Counted for some calls.

    Attributes:
        flops: floating-point operations of products and convolutions.
        bytes: read and written by all calls.
        other_bytes: those of them that are no products: what fusing can save at most.
        calls: their number.
    """

    flops: float
    bytes: float
    other_bytes: float
    calls: int


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view and func.overloadpacket.__name__ != "detach":
            self.calls += 1
            touched = [*_tensors(args), *_tensors(kwargs), *_tensors(out)]
            own = {id(t): t.numel() * t.itemsize for t in touched}
            self.bytes[func.overloadpacket.__name__] += sum(own.values())
        return out


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [t for part in value for t in _tensors(part)]
    return []


def of_passes(
    model: nn.Module, inputs: tuple[int, ...], dtype: torch.dtype, *, backward: bool = True
) -> Work:
    """A forward pass, and a backward one, of a batch of this shape.

    Args:
        model: any network of image batches; left alone.
        inputs: shape of the batch.
        dtype: type of activations and of the copies of weights that they are multiplied with.
        backward: whether there is one; without, in eval mode.
    """
    twin = copy.deepcopy(model).to(device="meta", dtype=dtype).train(backward)
    x = torch.empty(inputs, dtype=dtype, device="meta")
    y = torch.empty(inputs[0], dtype=torch.int64, device="meta")
    counting, flops = _Counting(), FlopCounterMode(display=False)
    with torch.set_grad_enabled(backward), flops, counting:
        logits = twin(x)
        if backward:
            cross_entropy(logits, y).backward()
    return _work(counting, float(flops.get_total_flops()))


def _work(counting: _Counting, flops: float) -> Work:
    total = sum(counting.bytes.values())
    products = sum(counting.bytes[name] for name in PRODUCTS)
    return Work(flops, float(total), float(total - products), counting.calls)


def of_rank(n: int, d: int) -> tuple[float, float, float]:
    """(operations of the product, those of its eigenvalues, bytes of these) of a rank of n x d.

    The smaller product, of size m = min(n, d), takes 2·n·d·m operations; its reduction to three
    diagonals (4/3)·m³, half of them in products with vectors that read what is left of the matrix
    once for each of m columns: 8·m³/3 bytes in float64.
    """
    m = min(n, d)
    return 2.0 * n * d * m, 4 / 3 * m**3, 8 / 3 * m**3


def of_step(parameters: int, *, sam: bool, momentum: bool) -> Work:
    """What an optimizer does beside the passes, in float32 and as `SAM` on a GPU does it.

    Counted in reads and writes of all parameters: SGD takes 3, 5 with momentum; SAM the norm 1,
    the copy of w 2, the contained ε 6, w + ε 3, the way back 2, the look at what is descended 2.
    """
    reads = (5 if momentum else 3) + (16 if sam else 0)
    return Work(0.0, 4.0 * parameters * reads, 4.0 * parameters * reads, 0)
