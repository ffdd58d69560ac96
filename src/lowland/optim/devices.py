"""What a step has to agree on with other processes.

`Shards`: parameters split over processes (FSDP2, tensor and pipeline parallelism), whose norm is
one sum over all of them. `Replicas`: whole copies of the network (DDP), which exchange gradients by
themselves, and keep from it where ε is to be each device's own.
"""

from __future__ import annotations

import contextlib
import math
import operator
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parallel import DistributedDataParallel

from lowland.core.errors import InputError
from lowland.core.perturbation import global_norm
from lowland.core.sharding import any_sharded, split_groups

LOCAL_SHARDS = (
    "perturbation='local' needs a whole copy of the network on every device (DDP), and the "
    "parameters are sharded: use perturbation='global'"
)
NO_REPLICAS = (
    "perturbation='local', and no DistributedDataParallel module ran in the closure: wrap the "
    "model, or use perturbation='global'"
)
NO_SYNC = (
    "inside no_sync() the devices would each go their own way: leave it before calling the "
    "optimizer (with micro-batches, the last one of every pass must be outside)"
)
DIFFERENT = (
    "the devices have different gradients ({norms} at {where}), so each would go its own way: a "
    "backward pass ran under no_sync() that must not (with micro-batches, the last one of every "
    "pass must be outside), or not through the DistributedDataParallel module{hint}"
)
FOR_LOCAL = "; if ε is meant to be each device's own, say perturbation='local'"
ALIKE = (
    "perturbation='local', and all devices have the same gradient at w: put the first pass into "
    "no_sync(), forward and backward, and give every device examples of its own (ε is now that of "
    "perturbation='global'; this is said once)"
)
SAME = 1e-5
"""Relative difference below which two devices have the same norm: exchanged gradients are equal."""


def several_processes() -> bool:
    """Whether this process is one of a group of several."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _alike(norms: Sequence[float]) -> bool:
    return all(math.isclose(n, norms[0], rel_tol=SAME) for n in norms) or all(
        map(math.isnan, norms)
    )


def _short(norms: Sequence[float]) -> str:
    shown = ", ".join(f"{n:.4g}" for n in norms[:4])
    return f"norms {shown}{', ...' if len(norms) > 4 else ''}"


class Shards:
    """Sums over the elements of parameters that are split over processes.

    Args:
        params: all parameters of the optimizer.
        split_over: process group over which whole parameters are divided, each on one process
            only: the stages of a pipeline.
    """

    def __init__(self, params: Sequence[Tensor], split_over: Any = None) -> None:
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

    def squares(self, params: Sequence[Sequence[Tensor]], tensors: Sequence[Any]) -> Tensor:
        """‖t‖² of each row of tensors over all processes, shape (rows,), float64."""

        def square_of(row: Sequence[Tensor]) -> Any:
            return lambda alike: global_norm([row[i] for i in alike]).double() ** 2

        return self.sums(params, [square_of(row) for row in tensors])


class Replicas:
    """The data-parallel copies of the network, where there are any.

    Args:
        model: the network or its wrapper, if known; otherwise the wrapper is found when it first
            runs.
        local: whether each copy perturbs along its own gradient.
    """

    def __init__(self, model: nn.Module | None, local: bool) -> None:
        self.local = local
        self._known: list[weakref.ref[nn.Module]] = []
        self._looked = False
        self._confirmed: set[bool] = set()
        if model is not None:
            for module in model.modules():
                self._find(module)

    @property
    def modules(self) -> list[Any]:
        """The `DistributedDataParallel` modules that are known."""
        return [module for ref in self._known if (module := ref()) is not None]

    @property
    def groups(self) -> list[Any]:
        """Process groups whose members may hold different gradients at w."""
        if not (self.local and several_processes()):
            return []
        known = [module.process_group for module in self.modules]
        return known or [dist.group.WORLD]

    def check_synchronised(self) -> None:
        """Raise if gradients would not be exchanged where they must be.

        Raises:
            RuntimeError: the caller is inside ``no_sync()``.
        """
        if any(not module.require_backward_grad_sync for module in self.modules):
            raise RuntimeError(NO_SYNC)

    def unconfirmed(self, params: Sequence[Tensor], at_w: Tensor | None) -> bool:
        """Whether `confirm` is due: in the first step, and in the first with a pass at w+ε."""
        if not self._known or (at_w is not None) in self._confirmed:
            return False
        if self._holds(params):
            return True
        self._confirmed |= {True, False}
        return False

    def confirm(self, device: torch.device, at_w: Tensor | None, descended: Tensor | None) -> str:
        """Look whether the devices have exchanged what they must have, and only that.

        Cost: one exchange of two numbers, and one wait for the device.

        Args:
            device: where the numbers are exchanged.
            at_w: the norm of the gradient at w, if there is a pass at w+ε.
            descended: the norm of what is descended along; None if it is not finite.

        Returns:
            A warning, or nothing.

        Raises:
            RuntimeError: the gradients differ between devices where they must not.
        """
        group = self.modules[0].process_group
        nan = torch.tensor(math.nan)
        mine = [
            torch.tensor(0.0) if at_w is None else at_w,
            nan if descended is None else descended,
        ]
        norms = torch.zeros(dist.get_world_size(group), 2, dtype=torch.float64, device=device)
        norms[dist.get_rank(group)] = torch.stack([n.double().to(device) for n in mine])
        dist.all_reduce(norms, group=group)
        first, last = norms.T.tolist()
        if all(map(math.isnan, last)):
            return ""  # skipped everywhere: nothing to be learned from this step
        self._confirmed.add(at_w is not None)
        if not (self.local or _alike(first)):
            raise RuntimeError(DIFFERENT.format(norms=_short(first), where="w", hint=FOR_LOCAL))
        if not _alike(last):
            raise RuntimeError(DIFFERENT.format(norms=_short(last), where="w+ε", hint=""))
        return ALIKE if self.local and first[0] and len(set(first)) == 1 else ""

    def _holds(self, params: Sequence[Tensor]) -> bool:
        """Whether all of the parameters are replicated over one group of several processes.

        Where a device has parameters of its own besides, devices may differ.
        """
        modules = self.modules
        if len({module.process_group for module in modules}) != 1:
            return False
        if dist.get_world_size(modules[0].process_group) == 1:
            return False
        own = {
            p
            for module in modules
            for name, p in module.module.named_parameters()
            if name not in module.parameters_to_ignore
        }
        return all(p in own for p in params)

    @contextlib.contextmanager
    def exchange(self, wanted: bool) -> Iterator[None]:
        """A pass in which the copies exchange gradients, or do not.

        Raises:
            RuntimeError: exchange is wanted inside ``no_sync()``, or is to be held back and there
                is nothing that would exchange.
        """
        if wanted:
            self.check_synchronised()
        with contextlib.ExitStack() as quiet:
            if not wanted:
                for module in self.modules:
                    quiet.enter_context(module.no_sync())
            if not self._looked and not self._known and several_processes():
                quiet.enter_context(self._looking(quiet, wanted))
            yield
        if self.local and not wanted and not self._known and several_processes():
            raise RuntimeError(NO_REPLICAS)

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """A pass of the caller's own, in which the wrapper may be found."""
        if self._looked or self._known or not several_processes():
            yield
            return
        with contextlib.ExitStack() as quiet, self._looking(quiet, True):
            yield

    @contextlib.contextmanager
    def _looking(self, quiet: contextlib.ExitStack, wanted: bool) -> Iterator[None]:
        def on_call(module: nn.Module, args: tuple[Any, ...]) -> None:
            self._find(module)
            if isinstance(module, DistributedDataParallel) and not wanted:
                quiet.enter_context(module.no_sync())

        hook = register_module_forward_pre_hook(on_call)
        try:
            yield
        finally:
            hook.remove()
            self._looked = True

    def _find(self, module: nn.Module) -> None:
        if isinstance(module, DistributedDataParallel) and module not in self.modules:
            self._known.append(weakref.ref(module))

    def share(self, sizes: Sequence[int], splits: bool) -> float:
        """What to multiply the mean loss by, so that the mean over devices is over examples.

        DDP weighs devices equally; with n_r of n examples on this one of R, the factor is R·n_r/n,
        which is 1 where all have the same number.

        Args:
            sizes: the numbers of examples of this device's micro-batches.
            splits: whether each part of the batch has an ε and an exchange of its own.

        Raises:
            InputError: the sizes differ and the method splits the batch, so that devices could
                need different numbers of passes.
        """
        if not self.modules:
            return 1.0
        group = self.modules[0].process_group
        device = next(self.modules[0].parameters()).device
        counts = torch.zeros(dist.get_world_size(group), 2, dtype=torch.int64, device=device)
        mine = [examples := sum(sizes), hash(tuple(sizes)) if splits else 0]
        counts[dist.get_rank(group)] = torch.tensor(mine, device=device)
        dist.all_reduce(counts, group=group)
        numbers: list[int] = counts[:, 0].tolist()
        if splits and len(set(counts[:, 1].tolist())) > 1:
            raise InputError(
                f"the devices have {numbers} examples of this batch, and this method splits it: "
                "give every device the same numbers (drop the last, ragged batch)"
            )
        return examples * len(numbers) / math.fsum(numbers)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles find their wrapper anew."""
        return {"local": self.local, "_known": [], "_looked": False, "_confirmed": set()}


class Devices:
    """Shards and replicas of one optimizer's parameters."""

    def __init__(self, model: nn.Module | None, across: str, split_over: Any = None) -> None:
        self.split_over = split_over
        self.replicas = Replicas(model, across == "local")
        self.params: list[Tensor] = []
        self.shards = Shards([])

    def meet(self, params: list[Tensor]) -> None:
        """Look at the parameters, which may be new.

        Raises:
            InputError: ε is to be each device's own, and the devices hold shards.
        """
        held = self.params
        if len(params) != len(held) or not all(map(operator.is_, params, held)):
            self.params, self.shards = params, Shards(params, self.split_over)
            if self.shards.split and self.replicas.local:
                raise InputError(LOCAL_SHARDS)

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
