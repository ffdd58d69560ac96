"""Compiled products: the same matrix, and a word where something cannot be compiled."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from curvature_cases import double_batches, double_net, relative, tiny_batches, tiny_net
from measure_cases import per_example
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from lowland.measure.curvature import HessianOperator, hessian_eigenvalues, products
from lowland.measure.curvature.compiled import CompiledProducts, split_at


def whole(model: nn.Module, data: Any, **options: Any) -> tuple[Tensor, bool]:
    with HessianOperator(model, per_example, data, **options) as operator:
        found = operator @ torch.eye(operator.size, dtype=operator.dtype)
        return found, operator.compiled


def small() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(9, 4), nn.Tanh(), nn.Linear(4, 3)]
    return nn.Sequential(*layers).double()


@pytest.mark.parametrize(
    ("make", "matrix", "graph_bytes"),
    [(double_net, "hessian", 2**30), (small, "ggn", 2**30), (small, "hessian", 0)],
)
def test_compiled_products_are_the_eager_ones(make, matrix, graph_bytes) -> None:
    """The last, shorter batch runs eagerly."""
    options = {"matrix": matrix, "graph_bytes": graph_bytes}
    model, data = make(), double_batches()
    found, compiled = whole(model, data, compile="eager", **options)
    assert compiled
    assert relative(found, whole(model, data, **options)[0]) < 1e-14


def test_a_block_of_a_compiled_model() -> None:
    model = small()
    wrapped = torch.compile(model, backend="eager")
    found, compiled = whole(wrapped, double_batches(), parameters="3", compile="eager")
    assert compiled
    expected, _ = whole(model, double_batches(), parameters="3")
    assert relative(found, expected) < 1e-14


class TiedAttention(nn.Module):
    """Tied weights, a frozen layer, attention, and a parameter that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.mix = nn.Linear(4, 4).requires_grad_(False)
        self.spare = nn.Parameter(torch.ones(2))
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.embed(tokens)
        return self.head(scaled_dot_product_attention(self.mix(h), h, h).mean(1))


@pytest.mark.parametrize("matrix", ["hessian", "ggn"])
def test_tied_weights_attention_and_unused_parameters(matrix) -> None:
    torch.manual_seed(0)
    model = TiedAttention().double()
    data = [(torch.tensor([[0, 1, 2], [2, 3, 0]]), torch.tensor([1, 4]))]
    found, compiled = whole(model, data, compile="eager", matrix=matrix)
    assert compiled
    assert relative(found, whole(model, data, matrix=matrix)[0]) < 1e-13


class Branching(nn.Module):
    """Looks at its data while it runs, so that a trace would hold one branch only."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.layer(x.flatten(1))
        return z.square() if float(x.sum()) > 0 else z


def test_what_cannot_be_traced_runs_eagerly_after_a_word() -> None:
    torch.manual_seed(0)
    model = Branching()
    with pytest.warns(RuntimeWarning, match="compile: products run eagerly: "):
        found, compiled = whole(model, tiny_batches(), compile="eager")
    assert not compiled
    assert torch.equal(found, whole(model, tiny_batches())[0])


def test_compiled_products_that_are_wrong_are_not_used(monkeypatch) -> None:
    right = products.compile_products

    def wrong(*args: Any) -> CompiledProducts:
        found = right(*args)
        return CompiledProducts(
            model=found.model,
            signature=found.signature,
            prepare=found.prepare,
            apply=lambda *tensors: [1.01 * t for t in found.apply(*tensors)],
        )

    monkeypatch.setattr(products, "compile_products", wrong)
    with pytest.warns(RuntimeWarning, match=r"differs from the eager one by 1\.0e-02"):
        found, compiled = whole(small(), double_batches(), compile="eager")
    assert not compiled
    assert torch.equal(found, whole(small(), double_batches())[0])


def test_an_instrument_compiled() -> None:
    eager = hessian_eigenvalues(small(), cross_entropy, double_batches(), 2)
    compiled = hessian_eigenvalues(small(), cross_entropy, double_batches(), 2, compile="eager")
    assert compiled.values == pytest.approx(eager.values, rel=1e-9)


def test_a_trace_is_split_where_the_vector_comes_in() -> None:
    def function(a: Tensor, v: Tensor) -> list[Tensor]:
        heavy = a.exp()
        return [heavy * v, heavy.sum() + a.sum()]

    a, v = torch.randn(3), torch.randn(3)
    traced = make_fx(function)(a, v)
    first, second = split_at(traced, 1)
    handed = first(a)
    assert all(torch.equal(x, y) for x, y in zip(second(*handed, v), function(a, v), strict=True))
    assert "exp" not in operations(second)
    assert {"exp", "sum"} <= operations(first)


def operations(graph: fx.GraphModule) -> set[str]:
    nodes = (node for node in graph.graph.nodes if node.op == "call_function")
    return {str(node.target).split(".")[1] for node in nodes}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor() -> None:
    model, data = tiny_net(), tiny_batches()
    found, compiled = whole(model, data, compile=True)
    assert compiled
    assert relative(found, whole(model, data)[0]) < 1e-5
