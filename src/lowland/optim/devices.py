"""What a step has to agree on with other processes.

`Shards`: parameters split over processes (FSDP2, tensor and pipeline parallelism), whose norm is
one sum over all of them. `Replicas`: whole copies of the network (DDP), which exchange gradients by
themselves, and keep from it where ε is to be each device's own.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lowland.core.errors import InputError
from lowland.core.sharding import is_sharded
from lowland.optim.replicas import Replicas, joining, share_of
from lowland.optim.shards import FSDP1, Gathered, Shards

LOCAL_SHARDS = (
    "perturbation='local' needs a whole copy of the network on every device (DDP), and the "
    "parameters are sharded: use perturbation='global'"
)
RAGGED = (
    "the devices have between {} and {} examples of this batch, which is not weighed on a mesh of "
    "several dimensions: give every device the same number (drop the last, ragged batch)"
)


class Devices:
    """Shards and replicas of one optimizer's parameters."""

    def __init__(self, model: nn.Module | None, across: str, split_over: Any = None) -> None:
        self.split_over = split_over
        self.replicas = Replicas(model, across == "local")
        self.gathered = Gathered(model)
        self.params: list[Tensor] = []
        self.shards = Shards([])

    def meet(self, params: list[Tensor]) -> None:
        """Look at the parameters, which may be new.

        Raises:
            InputError: ε is to be each device's own, and the devices hold shards; FSDP1.
        """
        held = self.params
        if len(params) != len(held) or not all(map(operator.is_, params, held)):
            self.params, self.shards = params, Shards(params, self.split_over)
            self.replicas.meet(params)
            if self.shards.split and self.replicas.local:
                raise InputError(LOCAL_SHARDS)
            if any(getattr(p, "_is_flat_param", False) for p in params):
                raise InputError(FSDP1)

    @contextlib.contextmanager
    def exchange(self, wanted: bool) -> Iterator[None]:
        """A pass in which copies exchange gradients, or do not; see `Replicas.exchange`."""
        with self.gathered.looking(self.shards.split), self.replicas.exchange(wanted):
            yield

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """A pass of the caller's own, in which wrappers may be found."""
        with self.gathered.looking(self.shards.split), self.replicas.looking():
            yield

    def share(self, sizes: Sequence[int], splits: bool) -> float:
        """The factor of `share_of` for the devices that average gradients, after a forward.

        Raises:
            InputError: the numbers differ where that cannot be weighed.
        """
        first = self.params[0]
        if modules := self.replicas.modules:
            if joining(modules[0]):
                return 1.0
            return share_of(sizes, splits, modules[0].process_group, first.device)
        if not self.gathered.modules():
            return 1.0
        mesh: Any = next(p.device_mesh for p in self.params if is_sharded(p))  # type: ignore[attr-defined]
        if mesh.ndim == 1:
            return share_of(sizes, splits, mesh.get_group(), first.device)
        ends = torch.tensor([max(sizes), -min(sizes), sum(sizes), -sum(sizes)], device=first.device)
        for group in mesh.get_all_groups():
            dist.all_reduce(ends, dist.ReduceOp.MAX, group=group)
        if ends[2] != -ends[3] or (splits and ends[0] != -ends[1]):
            raise InputError(RAGGED.format(-ends[3], ends[2]))
        return 1.0

    def average(self, values: Tensor, weight: float) -> Tensor:
        """The weighted mean over replicas that average their gradients."""
        if not self.replicas.modules:
            return values
        sums = torch.cat([values * weight, values.new_tensor([weight])])
        dist.all_reduce(sums, group=self.replicas.modules[0].process_group)
        return sums[:-1] / sums[-1]

    def gather(self, values: Tensor) -> Tensor:
        """The values of all devices that have shares of the batch, along the first dimension."""
        for group in self._sharing():
            sizes = [
                torch.zeros((), dtype=torch.int64, device=values.device)
                for _ in range(dist.get_world_size(group))
            ]
            dist.all_gather(sizes, torch.tensor(len(values), device=values.device), group=group)
            most = max(map(int, sizes))
            padded = torch.cat([values, values.new_zeros(most - len(values), *values.shape[1:])])
            held = [torch.empty_like(padded) for _ in sizes]
            dist.all_gather(held, padded, group=group)
            values = torch.cat([part[: int(n)] for part, n in zip(held, sizes, strict=True)])
        return values

    def _sharing(self) -> list[Any]:
        """The process groups among whose members the batch is divided."""
        if self.replicas.modules:
            return [self.replicas.modules[0].process_group]
        if not self.gathered.modules():
            return []
        mesh: Any = next(p.device_mesh for p in self.params if is_sharded(p))  # type: ignore[attr-defined]
        return list(mesh.get_all_groups())

    @property
    def together(self) -> bool:
        """Whether what one process finds in its gradients, all of them find by themselves."""
        return not (self.shards.split or self.replicas.groups)

    def agree(self, found: Tensor) -> None:
        """Make `found` the largest of all processes that take the step together."""
        for group in [*self.shards.groups, *self.replicas.groups]:
            dist.all_reduce(found, dist.ReduceOp.MAX, group=group)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles meet their parameters anew."""
        return {**self.__dict__, "params": [], "shards": Shards([])}
