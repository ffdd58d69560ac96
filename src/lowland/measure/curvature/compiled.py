"""Products of one batch as two compiled graphs: what does not depend on the vector, and what does.

The whole product is traced once, on fake tensors, so that a network which looks at its data
while it runs cannot be traced into one branch unnoticed. The trace is split at the vector: the
first graph gives what the second one needs, and is run once per batch; the second is v -> A·v.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from lowland.measure.blocks import eager
from lowland.measure.curvature.maps import MAPS, Parts
from lowland.measure.curvature.subject import Matrix, Subject
from lowland.measure.evaluation import Loss


@dataclass(frozen=True, eq=False)
class CompiledProducts:
    """v -> A·v for batches of one shape.

    Attributes:
        model: whose tensors the graphs are given.
        signature: of the batches that it can take; see `signature_of`.
        prepare: (tensors of the model, inputs and targets, flat) -> what a batch's products need.
        apply: (those, vectors) -> A·v, one tensor per weight.
    """

    model: nn.Module
    signature: Any
    prepare: Callable[..., Sequence[Tensor]]
    apply: Callable[..., Sequence[Tensor]]

    def residuals(self, inputs: Any, targets: Tensor) -> Sequence[Tensor]:
        """What the products of this batch need."""
        return self.prepare(*pytree.tree_leaves((tensors_of(self.model), inputs, targets)))

    def product(self, residuals: Sequence[Tensor]) -> Callable[[Sequence[Tensor]], Parts]:
        """v -> A·v of the batch with these residuals."""
        return lambda vectors: self.apply(*residuals, *vectors)


def signature_of(inputs: Any, targets: Tensor) -> Any:
    """What has to agree for a trace to fit: structure, shapes and types of a batch."""
    leaves, structure = pytree.tree_flatten((inputs, targets))
    kinds = tuple((tuple(x.shape), x.dtype) if isinstance(x, Tensor) else x for x in leaves)
    return str(structure), kinds


def compile_products(
    subject: Subject, matrix: Matrix, inputs: Any, targets: Tensor, backend: str
) -> CompiledProducts:
    """Trace, split and compile the products of batches like this one; whatever fails is raised.

    Args:
        subject: what is differentiated.
        matrix: "hessian" or "ggn".
        inputs: of a batch; all leaves must be tensors.
        targets: of that batch.
        backend: of `torch.compile`.
    """
    model = getattr(subject.model, "_orig_mod", subject.model)
    inside = {id(weight) for weight in subject.weights.values()}
    chosen = [name for name, p in model.named_parameters() if id(p) in inside]
    state = tensors_of(model)
    product = _product(model, subject.loss_fn, matrix, chosen)
    vectors = [torch.zeros_like(state[name]) for name in chosen]
    with eager(model):
        traced = make_fx(product, tracing_mode="fake")(state, inputs, targets, vectors)
    first, second = split_at(traced, len(vectors))
    options = {"layout_optimization": False} if backend == "inductor" and _on_cpu(state) else None
    return CompiledProducts(
        model=model,
        signature=signature_of(inputs, targets),
        prepare=_compiled(first, backend, options),
        apply=_compiled(second, backend, options),
    )


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, each once, detached."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.detach() for name, tensor in named}


def _product(
    model: nn.Module, loss_fn: Loss, matrix: str, chosen: Sequence[str]
) -> Callable[..., list[Tensor]]:
    known = {} if matrix == "hessian" else {"known": False}  # the labels are not looked at

    def product(
        state: Mapping[str, Tensor], inputs: Any, targets: Tensor, vectors: list[Tensor]
    ) -> list[Tensor]:
        weights = [state[name].detach().requires_grad_() for name in chosen]
        here = {**state, **dict(zip(chosen, weights, strict=True))}
        named = isinstance(inputs, Mapping)
        outputs = functional_call(model, here, () if named else (inputs,), inputs if named else {})
        found = MAPS[matrix](loss_fn, outputs, targets, weights, **known)(vectors)
        return [
            torch.zeros_like(w) if f is None else f for w, f in zip(weights, found, strict=True)
        ]

    return product


def _on_cpu(state: Mapping[str, Tensor]) -> bool:
    """There, inductor's own choice of layout makes convolutions slower than they are eagerly."""
    return all(tensor.device.type == "cpu" for tensor in state.values())


def _compiled(graph: fx.GraphModule, backend: str, options: Any) -> Callable[..., Sequence[Tensor]]:
    run = torch.compile(graph, backend=backend, options=options, dynamic=False, fullgraph=True)

    def without_gradients(*tensors: Tensor) -> Sequence[Tensor]:
        with torch.no_grad():
            found: Sequence[Tensor] = run(*tensors)
            return found

    return without_gradients


def split_at(traced: fx.GraphModule, count: int) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Two graphs in a row that do what `traced` does: before, and from the last `count` inputs on.

    The first takes all other inputs and gives a tuple of whatever the second needs; the second
    takes that tuple's entries and then the last `count` inputs.
    """
    nodes = list(traced.graph.nodes)
    inputs = [node for node in nodes if node.op == "placeholder"]
    last, (output,) = inputs[-count:], [node for node in nodes if node.op == "output"]
    late = set(last)
    for node in nodes:
        if node is not output and any(source in late for source in node.all_input_nodes):
            late.add(node)
    handed = [n for n in nodes if n not in late and any(u in late or u is output for u in n.users)]
    early = [n for n in nodes if n not in late and n.op not in ("placeholder", "output")]
    first = _subgraph(traced, inputs[:-count], early, tuple(handed))
    ordered = [n for n in nodes if n in late and n.op != "placeholder"]
    second = _subgraph(traced, [*handed, *last], ordered, output.args[0])
    return first, second


def _subgraph(
    owner: fx.GraphModule, inputs: list[fx.Node], body: list[fx.Node], result: Any
) -> fx.GraphModule:
    graph = fx.Graph()
    copies = {node: graph.placeholder(node.name) for node in inputs}
    for node in body:
        copies[node] = graph.node_copy(node, lambda n: copies[n])
    graph.output(fx.map_arg(result, lambda n: copies[n]))
    graph.eliminate_dead_code()
    return fx.GraphModule(owner, graph)
