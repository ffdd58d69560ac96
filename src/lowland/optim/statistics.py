"""Keeping the running statistics of normalization layers out of the second pass.

The first pass updates running statistics as plain training would. The second pass runs at w+ε on
the same batch: if it updated them too, they would count every batch twice, half of it at weights
that the network never has.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.hooks import RemovableHandle

from lowland.core.errors import unknown

Policy = Literal["frozen", "update", "eval"]
POLICIES = ("frozen", "update", "eval")

_ASK_FOR_MODEL = (
    "the model is compiled, so its normalization layers cannot be found from outside: "
    "pass model= to the optimizer"
)


def _is_compiled(module: nn.Module) -> bool:
    if isinstance(module, torch._dynamo.OptimizedModule):
        return True
    return getattr(module, "_compiled_call_impl", None) is not None  # by module.compile()


class RunningStatistics:
    """What happens to running statistics while the weights are at w+ε.

    ``"frozen"`` (default): the pass uses batch statistics, and the buffers come back as they were.
    ``"update"``: the pass updates them again. ``"eval"``: the layers run on their running
    statistics and leave them alone.

    With a model, its layers are known and their buffers are saved and restored by copying, which
    leaves a compiled model its one graph. Without one, a hook on module calls finds them as they
    run; a compiled model then raises, since such hooks would recompile it or never fire.

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
        self._layers: list[nn.Module] | None = None
        self._seen: dict[nn.Module, bool] = {}
        self._buffers: list[Tensor] = []
        self._saved: list[Tensor] = []
        self._pool: dict[Tensor, Tensor] = {}
        self._hook: RemovableHandle | None = None
        self._harmless: set[type[nn.Module]] = set()

    def begin(self) -> None:
        """Call before the pass at w+ε."""
        if self.policy == "update":
            return
        if self.model is None:
            self._hook = register_module_forward_pre_hook(self._on_call)
            return
        if self._layers is None:
            self._layers = [m for m in self.model.modules() if self._tracks(m)]
        self._protect(m for m in self._layers if m.training)

    def end(self) -> None:
        """Call after it, however it ended. Safe to call any number of times."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        if self._buffers:
            with torch.no_grad():
                torch._foreach_copy_(self._buffers, self._saved)
            self._buffers, self._saved = [], []
        for layer, training in self._seen.items():
            layer.training = training
        self._seen = {}

    def _tracks(self, module: nn.Module) -> bool:
        if isinstance(module, self.classes):
            return True
        return isinstance(module, _NormBase) and module.running_mean is not None

    def _protect(self, layers: Iterable[nn.Module]) -> None:
        buffers: list[Tensor] = []
        for layer in layers:
            self._seen[layer] = layer.training
            if self.policy == "eval":
                layer.training = False
            else:
                buffers += [b for b in layer.buffers(recurse=False) if b is not None]
        if buffers:
            saved = [self._space(b) for b in buffers]
            torch._foreach_copy_(saved, buffers)
            self._saved += saved
            self._buffers += buffers

    def _space(self, buffer: Tensor) -> Tensor:
        space = self._pool.get(buffer)
        if space is None:
            space = self._pool[buffer] = torch.empty_like(buffer)
        return space

    def _on_call(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if type(module) in self._harmless:
            return
        if torch.compiler.is_compiling() or _is_compiled(module):
            raise RuntimeError(_ASK_FOR_MODEL)
        if self._tracks(module) and module.training and module not in self._seen:
            with torch.no_grad():
                self._protect([module])
        elif not isinstance(module, (_NormBase, *self.classes)):
            self._harmless.add(type(module))  # a class whose instances need no second look

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles keep the settings and find their layers anew."""
        fresh = RunningStatistics(self.model, self.policy, self.classes)
        return fresh.__dict__
