"""Whole copies of the network on several devices (DDP).

They exchange gradients by themselves, and keep from it where ε is to be each device's own.
"""

from __future__ import annotations

import contextlib
import math
import warnings
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parallel import DistributedDataParallel

from lowland.core.errors import InputError

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
    "perturbation='local', and all devices have the same gradient at w, so ε is that of 'global': "
    "give every device examples of its own; in a loop of your own, put the first pass into "
    "no_sync(), forward and backward; with several networks in a loop, run those that do not learn "
    "under no_grad (this is said once)"
)
STATIC = (
    "perturbation='local' does not go with DistributedDataParallel({}): its first pass must not "
    "exchange gradients; leave that out, or use perturbation='global'"
)
ANEW = (
    "perturbation='local': the DistributedDataParallel module of earlier steps did not run in this "
    "one, so its ε came from all devices; the one that did run is used from here on"
)
SAME = 1e-5
"""Relative difference below which two devices have the same norm: exchanged gradients are equal."""


def several_processes() -> bool:
    """Whether this process is one of a group of several."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def joining(module: DistributedDataParallel) -> bool:
    """Whether it runs inside torch's ``Join``, where devices may have ended."""
    return bool(getattr(getattr(module, "_join_config", None), "enable", False))


def _check_quiet(module: DistributedDataParallel) -> None:
    """Refuse wrappers that cannot hold an exchange back."""
    if module.static_graph:
        raise InputError(STATIC.format("static_graph=True"))
    if joining(module):
        raise InputError(STATIC.format("...) inside Join("))


def share_of(sizes: Sequence[int], splits: bool, group: Any, device: torch.device) -> float:
    """What to multiply the mean loss by, so that the mean over devices is over examples.

    Gradients are averaged over devices; with n_r of n examples on this one of R, the factor is
    R·n_r/n, which is 1 where all have the same number.

    Args:
        sizes: the numbers of examples of this device's micro-batches.
        splits: whether each part of the batch has an ε and an exchange of its own.
        group: the devices.
        device: where numbers are exchanged.

    Raises:
        InputError: the sizes differ and the method splits the batch, so that devices could need
            different numbers of passes.
    """
    counts = torch.zeros(dist.get_world_size(group), 2, dtype=torch.int64, device=device)
    mine = [examples := sum(sizes), hash(tuple(sizes)) if splits else 0]
    counts[dist.get_rank(group)] = torch.tensor(mine, device=device)
    dist.all_reduce(counts, group=group)
    numbers: list[int] = counts[:, 0].tolist()
    if splits and len(set(counts[:, 1].tolist())) > 1:
        raise InputError(
            f"the devices have {numbers} examples of this batch, and this method splits it: give "
            "every device the same numbers (drop the last, ragged batch)"
        )
    return examples * len(numbers) / math.fsum(numbers)


def _alike(norms: Sequence[float]) -> bool:
    return all(math.isclose(n, norms[0], rel_tol=SAME) for n in norms) or all(
        map(math.isnan, norms)
    )


def _short(norms: Sequence[float]) -> str:
    shown = ", ".join(f"{n:.4g}" for n in norms[:4])
    return f"norms {shown}{', ...' if len(norms) > 4 else ''}"


class Replicas:
    """The data-parallel copies of the network, where there are any.

    Args:
        model: the network or its wrapper, if known; otherwise the wrapper is found when it first
            runs.
        local: whether each copy perturbs along its own gradient.
    """

    def __init__(self, model: nn.Module | None, local: bool) -> None:
        self.local = local
        self._params: set[int] = set()
        self._known: list[weakref.ref[nn.Module]] = []
        self._mine: list[weakref.ref[nn.Module]] | None = None
        self._looked = False
        self._confirmed: set[bool] = set()
        if model is not None:
            for module in model.modules():
                self._find(module)

    def meet(self, params: Sequence[Tensor]) -> None:
        """Look at the optimizer's parameters: wrappers of other networks are not its business."""
        self._params, self._mine = set(map(id, params)), None

    @property
    def modules(self) -> list[Any]:
        """The `DistributedDataParallel` modules that are known and hold any of the parameters."""
        if self._mine is None:
            self._mine = [
                ref
                for ref in self._known
                if (module := ref()) is not None
                and any(id(p) in self._params for p in module.parameters())
            ]
        return [module for ref in self._mine if (module := ref()) is not None]

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
        if not self.modules or (at_w is not None) in self._confirmed:
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
            where = "w" if at_w is None else "w+ε"
            raise RuntimeError(DIFFERENT.format(norms=_short(last), where=where, hint=""))
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
                    _check_quiet(module)
                    quiet.enter_context(module.no_sync())
            if self._to_look():
                quiet.enter_context(self._looking(quiet, wanted))
            yield
        if self.local and not wanted and several_processes():
            if not self.modules:
                raise RuntimeError(NO_REPLICAS)
            # a forward under no_sync() takes this back; before it, it stands from the second pass
            if all(module.require_forward_param_sync for module in self.modules):
                self._known, self._mine, self._looked, self._confirmed = [], None, False, set()
                warnings.warn(ANEW, RuntimeWarning, stacklevel=6)

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """A pass of the caller's own, in which the wrapper may be found."""
        if not self._to_look():
            yield
            return
        with contextlib.ExitStack() as quiet, self._looking(quiet, True):
            yield

    @contextlib.contextmanager
    def _looking(self, quiet: contextlib.ExitStack, wanted: bool) -> Iterator[None]:
        def on_call(module: nn.Module, args: tuple[Any, ...]) -> None:
            self._find(module)
            if isinstance(module, DistributedDataParallel) and not wanted:
                _check_quiet(module)
                quiet.enter_context(module.no_sync())

        hook = register_module_forward_pre_hook(on_call)
        try:
            yield
        finally:
            hook.remove()
            self._looked = True

    def _to_look(self) -> bool:
        """Whether a wrapper may be there that is not known: before it first ran, or made anew."""
        gone = bool(self._known) and not self.modules
        return (gone or not (self._looked or self._known)) and several_processes()

    def _find(self, module: nn.Module) -> None:
        new = not any(ref() is module for ref in self._known)
        if new and isinstance(module, DistributedDataParallel):
            self._known.append(weakref.ref(module))
            self._mine = None

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles find their wrapper anew."""
        return {**Replicas(None, self.local).__dict__}
