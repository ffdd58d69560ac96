"""TorchScript programs as networks whose blocks can be looked into.

Modules of a saved TorchScript program take no hooks. The outputs of its submodules are values of
its graph, though: where the program calls a submodule. `Scripted` runs the graph with those values
as further outputs and passes each through a module of the same name, which has the same parameters.
"""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lowland.core.errors import InputError, one_line
from lowland.inspection.subject import Subject, check_file, default_blocks, stands_for_all
from lowland.inspection.weights import sha256


class _Part(nn.Module):
    """A submodule of a program: its parameters, and a place for hooks on its output."""

    def forward(self, output: Tensor) -> Tensor:
        return output


class Scripted(_Part):
    """A TorchScript program with modules for its submodules.

    Hooks on a module whose call the main program makes itself (not a submodule in turn) see its
    output. Parameters are shared with the program, and gradients reach them.
    """

    def __init__(self, program: Any) -> None:
        super().__init__()
        self._program = (program,)  # in a tuple, so that its parameters are not counted twice
        parts: dict[str, nn.Module] = {"": self}
        self._pairs: list[tuple[Any, nn.Module]] = []
        for name, inner in program.named_modules():
            parent, _, last = name.rpartition(".")
            if name:
                parts[name] = _Part()
                parts[parent].add_module(last, parts[name])
            _share(inner, parts[name])
            self._pairs.append((inner, parts[name]))
        self.seen: tuple[str, ...] = ()
        self._run: Any = None
        with contextlib.suppress(RuntimeError, AttributeError, IndexError, TypeError):
            self._run, self.seen = _with_outputs(program)

    def forward(self, inputs: Any) -> Any:
        (program,) = self._program
        if getattr(program, "training", self.training) != self.training:
            program.train(self.training)
        if self._run is None:
            return program(inputs)
        output, *values = self._run(program._c, inputs)
        for name, value in zip(self.seen, values, strict=True):
            self.get_submodule(name)(value)
        return output

    def _apply(self, fn: Any, recurse: bool = True) -> Scripted:
        """Whatever moves or converts tensors: the program gets the new ones too."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for inner, part in self._pairs:
            for tensors in (part._parameters, part._buffers):
                for name, tensor in tensors.items():
                    inner._c.setattr(name, tensor)
        return self


def _share(inner: Any, part: nn.Module) -> None:
    """Give `part` the parameters and buffers of a scripted module, the very same tensors."""
    for name, tensor in list(inner.named_parameters(recurse=False)):
        parameter = nn.Parameter(tensor.detach(), requires_grad=tensor.requires_grad)
        inner._c.setattr(name, parameter)
        part.register_parameter(name, parameter)
    for name, tensor in inner.named_buffers(recurse=False):
        part.register_buffer(name, tensor)
    part.training = getattr(inner, "training", False)  # frozen programs have no mode


def _with_outputs(program: Any) -> tuple[Any, tuple[str, ...]]:
    """The program's graph with what its submodules return as further outputs, and their names."""
    graph = program.graph.copy()
    names = {next(iter(graph.inputs())).debugName(): ""}
    calls: dict[str, list[Any]] = {}
    for node in graph.nodes():
        if node.kind() == "prim::GetAttr" and node.inputsAt(0).debugName() in names:
            parent = names[node.inputsAt(0).debugName()]
            names[node.output().debugName()] = f"{parent}.{node.s('name')}".lstrip(".")
        elif node.kind() == "prim::CallMethod" and node.s("name") == "forward":
            name = names.get(node.inputsAt(0).debugName())
            if name is not None and str(node.output().type()) == "Tensor":
                calls.setdefault(name, []).append(node.output())
    once = {name: values[0] for name, values in calls.items() if len(values) == 1}
    outputs = [*graph.outputs(), *once.values()]
    together = graph.create("prim::TupleConstruct", outputs, 1)
    graph.appendNode(together)
    together.output().setType(torch._C.TupleType([value.type() for value in outputs]))
    while len(list(graph.outputs())):
        graph.eraseOutput(0)
    graph.registerOutput(together.output())
    return torch._C._create_function_from_graph("forward", graph), tuple(once)


def open_script(name: str, path: Path) -> Subject:
    """A TorchScript file.

    Raises:
        InputError: it is damaged, or of a torch that this one cannot read.
    """
    check_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            program = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{path} is no TorchScript program ({one_line(error)})") from None
    module = Scripted(program)
    notes = ("A TorchScript program: blocks are those that its main program calls by itself.",)
    if not module.seen:
        notes = (
            "A TorchScript program that calls no submodules by name: weights and loss can be "
            "measured, features of blocks cannot.",
        )
    return Subject(
        name=name,
        kind="TorchScript program",
        module=module.eval(),
        blocks=_blocks(module),
        tokens=stands_for_all(module),
        facts={"sha256": {path.name: sha256(path)}, "blocks seen": list(module.seen)},
        notes=notes,
    )


def _blocks(module: Scripted) -> str:
    """The default blocks, as far as they can be seen."""
    from lowland.measure import matching_blocks

    glob = default_blocks(module)
    with contextlib.suppress(InputError):
        if set(matching_blocks(module, glob)) <= set(module.seen):
            return glob
    return ",".join(module.seen) or glob
