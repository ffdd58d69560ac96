"""What a device does in some time: its rates, and its kernels by kind."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

KINDS = {
    "optimizer": ("multi_tensor", "foreach", "fused_sgd", "_amp_"),
    "layout of convolutions": ("nchwToNhwc", "nhwcToNchw", "reorder"),
    "normalisation": ("batch_norm", "bn_fw", "bn_bw", "batchnorm"),
    "convolutions and products": (
        "conv", "gemm", "xmma", "cutlass", "dgrad", "wgrad", "fprop", "addmm", "mm", "cudnn",
        "implicit", "sm90", "sm80",
    ),
    "compiled": ("triton",),
    "copies and casts": ("copy", "Memcpy", "Memset", "_to_", "clone", "fill", "cat"),
}  # fmt: skip
"""Kind -> parts of the names of its kernels; the first that fits counts, anything else is
elementwise or a reduction."""

OTHER = "elementwise and reductions"


def kind_of(name: str) -> str:
    """What a kernel does, by its name.

    >>> kind_of("void at::native::batch_norm_backward_kernel<float>")
    'normalisation'
    """
    for kind, parts in KINDS.items():
        if any(part.lower() in name.lower() for part in parts):
            return kind
    return OTHER


def finished(device: str) -> None:
    """Wait for all that is under way."""
    if device == "cuda":
        torch.cuda.synchronize()


def by_kind(run: Callable[[], Any], device: str, updates: int) -> dict[str, float]:
    """Milliseconds per update that the device (without a GPU, the host) was busy, by kind."""
    on_gpu = device == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as seen:
        run()
        finished(device)
    spent: Counter[str] = Counter()
    for event in seen.key_averages():
        if on_gpu and event.device_type == DeviceType.CUDA:
            spent[kind_of(event.key)] += event.self_device_time_total
        elif not on_gpu:
            spent[kind_of(event.key)] += event.self_cpu_time_total
    return {kind: us / 1e3 / updates for kind, us in spent.items()}


def product_rate(dtype: torch.dtype, device: str) -> float:
    """Floating-point operations a second in products of square matrices, the best of three.

    In float32 on a GPU with TF32, as torch's convolutions have it.
    """
    n = 8192 if device == "cuda" else 512
    a = torch.randn(n, n, device=device).to(dtype)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        return 2.0 * n**3 / _best(lambda: a @ a, device)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def copy_rate(device: str) -> float:
    """Bytes a second, read and written, in copies."""
    x = torch.empty(2**28 if device == "cuda" else 2**22, device=device)
    y = torch.empty_like(x)
    return 8.0 * x.numel() / _best(lambda: y.copy_(x), device)


def _best(run: Callable[[], Any], device: str) -> float:
    run()
    spent = []
    for _ in range(3):
        finished(device)
        began = time.perf_counter()
        run()
        finished(device)
        spent.append(time.perf_counter() - began)
    return min(spent)
