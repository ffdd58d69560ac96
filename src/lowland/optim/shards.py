"""Parameters that are split over processes: FSDP2, tensor and pipeline parallelism."""

from __future__ import annotations

import contextlib
import sys
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from lowland.core.errors import InputError
from lowland.core.perturbation import global_norm
from lowland.core.sharding import any_sharded, split_groups

FSDP1 = (
    "FullyShardedDataParallel (FSDP1) is not supported: norms would be each device's own; use "
    "fully_shard (FSDP2)"
)


class Shards:
    """Sums over the elements of parameters that are split over processes.

    Args:
        params: all parameters of the optimizer.
        split_over: process group over which whole parameters are divided, each on one process
            only: the stages of a pipeline.
    """

    def __init__(self, params: Sequence[Tensor], split_over: Any = None) -> None:
        self.divided = split_over is not None  # processes may have other groups of parameters
        self._extra = () if split_over is None else (split_over,)
        self.split = bool(self._extra) or any_sharded(params)
        self._keys: dict[int, tuple[Any, ...]] = {}
        self._ways: list[tuple[Any, ...]] = []  # the same on every process, whatever has gradients
        self.groups: list[Any] = []
        if not self.split:
            return
        for p in params:
            way = split_groups(p) + self._extra
            self._keys[id(p)] = way
            if way not in self._ways:
                self._ways.append(way)
            self.groups += [group for group in way if group not in self.groups]

    def sums(self, params: Sequence[Sequence[Tensor]], shares: Sequence[Any]) -> Tensor:
        """Σ over everything of each row, shape (rows,), float64.

        Args:
            params: the parameters of each row.
            shares: for each row, how to sum what is here: called with the positions of parameters
                that are split alike, it returns a number or 0-dim tensor.

        Cost: one exchange of that many numbers for every way in which parameters are split; one
        for FSDP.
        """
        total: Tensor | None = None
        for way in self._ways:
            rows = []
            for members, share in zip(params, shares, strict=True):
                alike = [i for i, p in enumerate(members) if self._keys.get(id(p)) == way]
                rows.append(torch.as_tensor(share(alike)).double())
            device = next((r.device for r in rows if r.device.type != "cpu"), rows[0].device)
            sums = torch.stack([r.to(device) for r in rows])
            for group in way:
                dist.all_reduce(sums, group=group)
            total = sums if total is None else total + sums
        assert total is not None
        return total

    def powers(
        self, params: Sequence[Sequence[Tensor]], tensors: Sequence[Any], order: float = 2.0
    ) -> Tensor:
        """‖t‖^q of each row of tensors over all processes, shape (rows,), float64."""

        def power_of(row: Sequence[Tensor]) -> Any:
            return lambda alike: global_norm([row[i] for i in alike], order).double() ** order

        return self.sums(params, [power_of(row) for row in tensors])


class Gathered:
    """FSDP2 modules, which may hold gathered copies of the parameters beside the shards that move.

    A forward would run on the copies, at w while the shards are at w+ε or the other way round, so
    they are let go whenever the shards move; the next forward gathers anew.

    Args:
        model: the network, if known; otherwise the modules are found when they first run.
    """

    def __init__(self, model: nn.Module | None) -> None:
        self._model = model
        self._known: list[weakref.ref[nn.Module]] = []
        self._looked = False
        kind = _kind("torch.distributed.fsdp", "FullyShardedDataParallel")
        if kind and model is not None and any(isinstance(m, kind) for m in model.modules()):
            raise InputError(FSDP1)

    def release(self) -> None:
        """Let the copies go."""
        for module in self.modules():
            module.reshard()

    def modules(self) -> list[Any]:
        """The modules that `fully_shard` has made, as far as they are known."""
        kind = _kind("torch.distributed.fsdp", "FSDPModule")
        if kind is None:
            return []
        if self._model is not None:
            return [module for module in self._model.modules() if isinstance(module, kind)]
        return [module for ref in self._known if (module := ref()) is not None]

    @contextlib.contextmanager
    def looking(self, sharded: bool) -> Iterator[None]:
        """A pass in which they are found, if the model is not known."""
        if self._looked or self._model is not None or not sharded:
            yield
            return
        kind = _kind("torch.distributed.fsdp", "FSDPModule")

        def on_call(module: nn.Module, args: tuple[Any, ...]) -> None:
            for child in module.modules() if kind and isinstance(module, kind) else ():
                if isinstance(child, kind) and not any(ref() is child for ref in self._known):
                    self._known.append(weakref.ref(child))
                    child.reshard()  # a pass of the caller's own may have left it gathered

        hook = register_module_forward_pre_hook(on_call)
        try:
            yield
        finally:
            hook.remove()
            self._looked = bool(self._known)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles find the modules anew."""
        return {"_model": self._model, "_known": [], "_looked": False}


def _kind(module: str, name: str) -> Any:
    """A class of a module, if anybody has imported it."""
    return getattr(sys.modules.get(module), name, None)
