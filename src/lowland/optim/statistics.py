"""Keeping the running statistics of normalization layers out of the second pass.

The first pass updates running statistics as plain training would. The second pass runs at w+ε on
the same batch: if it updated them too, they would count every batch twice, half of it at weights
that the network never has.
"""

from __future__ import annotations

import sys
import warnings
import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.hooks import RemovableHandle

from lowland.core.errors import InputError, unknown

POLICIES = ("frozen", "update", "eval")

_ASK_FOR_MODEL = (
    "the model is compiled, so its normalization layers cannot be found from outside: "
    "pass model= to the optimizer"
)
_UNSEEN = (
    "no module was seen running in the second pass, and something has been compiled since the "
    "optimizer was made: if that is a function around a network with running statistics, they move "
    "twice; pass model= to the optimizer (this is said once)"
)
_OUTSIDE = (
    "normalization layers outside model= ran in the second pass ({}): their running statistics are "
    "kept out of it too, from here on; pass a model= that contains all networks of the closure "
    "(nn.ModuleList([...]) will do)"
)
_SCRIPTED = (
    "the model has scripted modules, whose running statistics cannot be reached: pass the eager "
    "model, or bn_second='update' to let the second pass update them"
)


class RunningStatistics:
    """What happens to running statistics while the weights are at w+ε.

    ``"frozen"`` (default): the pass uses batch statistics, and the buffers come back as they were.
    ``"update"``: the pass updates them again. ``"eval"``: the layers run on their running
    statistics and leave them alone.

    With a model, its layers are known and their buffers are saved and restored by copying, which
    leaves a compiled model its one graph. Without one, a hook on module calls finds them as they
    run; a compiled model then raises, since such hooks would recompile it or never fire, and a
    compiled function around one is a warning. Layers outside the model are looked for in passes
    1, 2, 4, 8 and so on, as long as nothing is compiled, and protected from then on, with a
    warning.

    Layers are torch's own normalization classes, classes with a buffer named ``running_mean``, and
    those that the user names.

    Args:
        model: the network, or None to find layers as they run.
        policy: one of the three above.
        classes: module classes of the user's own whose buffers are running statistics.
    """

    def __init__(
        self,
        model: nn.Module | None,
        policy: str = "frozen",
        classes: tuple[type[nn.Module], ...] = (),
    ) -> None:
        if policy not in POLICIES:
            raise unknown("bn_second", policy, POLICIES)
        self.model, self.policy, self.classes = model, policy, classes
        self._protected: list[tuple[nn.Module, str, Tensor, Tensor]] = []
        self._modes: dict[nn.Module, bool] = {}
        self._pool: dict[tuple[nn.Module, str], Tensor] = {}
        self._hook: RemovableHandle | None = None
        self._others: set[type[nn.Module]] = set()
        self._outside: dict[nn.Module, None] = {}
        self._passes, self._graphs = 0, _compiled_graphs()
        self._seen = self._asked = False
        if model is not None and policy != "update":
            self._layers(model)

    def begin(self, *, watch: bool = True) -> None:
        """Call before the pass at w+ε.

        Args:
            watch: whether layers outside the model may be looked for: not before the first forward
                of all, which may be the one that compiles.
        """
        if self.policy == "update":
            return
        if self.model is None:
            self._hook = register_module_forward_pre_hook(_Weakly(self))
            return
        self._protect([*self._layers(self.model), *self._outside])
        self._passes += watch
        if watch and not (self._passes & (self._passes - 1) or _compiled_graphs()):
            self._hook = register_module_forward_pre_hook(_Weakly(self))

    def end(self) -> None:
        """Call after it, however it ended. Safe to call any number of times."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
            more = self.model is None and _compiled_graphs() > self._graphs
            if more and not (self._seen or self._asked):
                self._asked = True
                warnings.warn(_UNSEEN, RuntimeWarning, stacklevel=2)
        if self._protected:
            with torch.no_grad():
                buffers = [buffer for *_, buffer, _ in self._protected]
                torch._foreach_copy_(buffers, [saved for *_, saved in self._protected])
            for layer, name, buffer, _ in self._protected:
                layer._buffers[name] = buffer  # a layer may have put a new tensor in its place
            self._protected = []
        for layer, training in self._modes.items():
            layer.training = training
        self._modes = {}

    @property
    def changes_passes(self) -> bool:
        """Whether the policy makes a pass at w+ε another one than that at w, as far as is known."""
        if self.policy == "frozen" or self.model is None:
            return False
        return any(layer.training for layer in self._layers(self.model))

    def _layers(self, model: nn.Module) -> list[nn.Module]:
        """The layers with running statistics, looked up anew: layers come and go."""
        found: dict[nn.Module, None] = {}
        pending, others = [model], self._others
        while pending:
            module = pending.pop()
            if type(module) not in others:
                if isinstance(module, torch.jit.ScriptModule):
                    raise InputError(_SCRIPTED)
                if self._tracks(module):
                    found[module] = None
            for child in module._modules.values():
                # leaves of a class that needs no second look are most of a network
                if child is not None and (child._modules or type(child) not in others):
                    pending.append(child)
        return list(found)

    def _tracks(self, module: nn.Module) -> bool:
        if isinstance(module, self.classes):
            return True
        if isinstance(module, _NormBase) or "running_mean" in module._buffers:
            return module.running_mean is not None
        if not isinstance(module, torch.jit.ScriptModule):
            self._others.add(type(module))  # no instance of this class needs a second look
        return False

    def _protect(self, layers: Iterable[nn.Module]) -> None:
        protected = []
        for layer in layers:
            if self.policy == "eval":
                self._modes[layer] = layer.training
                layer.training = False
                continue
            for name, buffer in layer._buffers.items():
                if buffer is not None:
                    protected.append((layer, name, buffer, self._space(layer, name, buffer)))
        if protected:
            saved = [space for *_, space in protected]
            torch._foreach_copy_(saved, [buffer for _, _, buffer, _ in protected])
            self._protected += protected

    def _space(self, layer: nn.Module, name: str, buffer: Tensor) -> Tensor:
        space = self._pool.get((layer, name))
        if space is None or _kind(space) != _kind(buffer):
            space = self._pool[layer, name] = torch.empty_like(buffer)
        return space

    def __del__(self) -> None:
        """An optimizer that is dropped in the middle of a step leaves no hook behind."""
        hook = getattr(self, "_hook", None)
        if hook is not None:
            hook.remove()

    def on_call(self, module: nn.Module) -> None:
        """What the hook does: protect a layer with running statistics when it first runs."""
        self._seen = self._seen or not isinstance(module, torch.fx.GraphModule)
        if type(module) in self._others:
            return
        if torch.compiler.is_compiling() or is_compiled(module):
            if self.model is None:
                raise RuntimeError(_ASK_FOR_MODEL)
            return
        if not self._tracks(module) or self._is_protected(module):
            return
        if self.model is not None and module.training:
            self._outside[module] = None
            message = _OUTSIDE.format(type(module).__name__)
            warnings.warn(message, RuntimeWarning, stacklevel=2)
        with torch.no_grad():
            self._protect([module])

    def _is_protected(self, module: nn.Module) -> bool:
        return module in self._modes or any(module is layer for layer, *_ in self._protected)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles keep the settings and find their layers anew."""
        return {
            **self.__dict__,
            "_protected": [],
            "_modes": {},
            "_pool": {},
            "_hook": None,
            "_others": set(),
            "_outside": {},
            "_passes": 0,
            "_seen": False,
        }


class _Weakly:
    """The hook, which must not keep its owner alive."""

    def __init__(self, owner: RunningStatistics) -> None:
        self._owner = weakref.ref(owner)

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        owner = self._owner()
        if owner is not None:
            owner.on_call(module)


def _kind(tensor: Tensor) -> tuple[torch.dtype, torch.device, torch.Size]:
    return tensor.dtype, tensor.device, tensor.shape


def _compiled_graphs() -> int:
    """How many graphs this process has compiled: hooks on all modules would disturb them."""
    utils = sys.modules.get("torch._dynamo.utils")
    return 0 if utils is None else int(utils.counters["stats"].get("unique_graphs", 0))


def is_compiled(module: nn.Module) -> bool:
    """Whether it is compiled as it stands."""
    if isinstance(module, torch._dynamo.OptimizedModule):
        return True
    return getattr(module, "_compiled_call_impl", None) is not None  # by module.compile()
