"""What two processes of data-parallel training send each other, counted at both ends.

`Wire` counts what is asked for: gradient buckets by a communication hook of the wrapper, and every
collective of ``torch.distributed`` besides, whoever calls it. `received` asks the kernel what has
come in through this process's sockets, where nothing can hide.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_leaves

COLLECTIVES = (
    "all_gather", "all_gather_into_tensor", "all_gather_object", "all_reduce", "all_to_all",
    "all_to_all_single", "broadcast", "broadcast_object_list", "gather", "irecv", "isend", "recv",
    "reduce", "reduce_scatter", "reduce_scatter_tensor", "scatter", "send",
)  # fmt: skip

BYTES_RECEIVED = 128
"""Offset of ``tcpi_bytes_received`` in Linux's ``struct tcp_info``."""


class Wire:
    """Bytes that are handed to collectives by this process, while `counting`.

    Attributes:
        reductions: how many gradient buckets were reduced.
        gradients: their bytes.
        calls: how many other collectives there were.
        others: the bytes of the tensors in their arguments.
    """

    def __init__(self) -> None:
        self.reductions = self.gradients = self.calls = self.others = 0
        self._all_reduce = dist.all_reduce

    def attach(self, parallel: DistributedDataParallel) -> None:
        """Count the buckets of `parallel`; they are averaged as without this."""
        parallel.register_comm_hook(None, self._hook)

    def _hook(self, state, bucket):  # type: ignore[no-untyped-def]  # torch checks annotations
        buffer = bucket.buffer()
        self.reductions += 1
        self.gradients += buffer.numel() * buffer.element_size()
        buffer.div_(dist.get_world_size())
        future = self._all_reduce(buffer, async_op=True).get_future()
        return future.then(lambda done: done.value()[0])

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Counts every collective of ``torch.distributed`` that is called inside."""
        with contextlib.ExitStack() as patches:
            for name in COLLECTIVES:
                original = getattr(dist, name)
                patches.enter_context(mock.patch.object(dist, name, self._counted(original)))
            yield

    def _counted(self, original: Any) -> Any:
        def collective(*args: Any, **kwargs: Any) -> Any:
            tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
            self.calls += 1
            self.others += sum(t.numel() * t.element_size() for t in tensors)
            return original(*args, **kwargs)

        return collective


def received() -> int | None:
    """Bytes that this process's TCP sockets have received so far; None where nobody says."""
    total = None
    for name in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        with contextlib.suppress(OSError, struct.error):
            fd = int(name)
            if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                continue
            with socket.socket(fileno=os.dup(fd)) as end:
                info = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
            (count,) = struct.unpack_from("Q", info, BYTES_RECEIVED)
            total = (total or 0) + count
    return total
