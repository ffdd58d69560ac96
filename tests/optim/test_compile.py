"""Compiled models keep their graphs from step to step, in every method."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from forms import FORMS, NAMES_AND_FORMS, THREE, make
from problems import closure_for, data, equal, losses, network, weights
from torch import nn

from lowland.optim import SAM

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class Graphs:
    """Counts the graphs that a compiler is given."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.count += 1
        return graph.forward


def compiled(backend: Any, **options: Any) -> tuple[nn.Module, nn.Module]:
    torch._dynamo.reset()
    model = network(3)
    return model, torch.compile(model, backend=backend, **options)  # type: ignore[return-value]


GRAPHS = {"m-sam": 2, "rw-sam": 2, "esam": 3, "mesa": 2}
"""m-SAM sees shards of 5 and 2 examples; forwards without a backward are graphs of their own."""
REFUSED = {"sl-sam": "switches requires_grad, which compiles", "logits-sam": "wants one forward"}


@pytest.mark.parametrize(
    ("name", "form"), [pair for pair in NAMES_AND_FORMS if pair[0] not in REFUSED]
)
def test_no_recompilation_from_one_step_to_the_next(name: str, form: str) -> None:
    """All graphs are compiled in the first step."""
    graphs = Graphs()
    model, fast = compiled(graphs, dynamic=False)
    twin = network(3)
    opt, eager = make(name, model), make(name, twin)
    counts = []
    for i in range(7):
        FORMS[form](opt, fast, *data(i))
        FORMS[form](eager, twin, *data(i))
        counts.append(graphs.count)
    if (name, form) == ("last-layer-sam", "batch"):
        assert set(counts[1:]) == {2}, "the first step found that one forward is not possible"
    else:
        assert set(counts) == {GRAPHS.get(name, 1)}
    for a, b in zip(weights(model), weights(twin), strict=True):
        torch.testing.assert_close(a, b)
    for a, b in zip(model.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("policy", "expected"), [("frozen", 1), ("update", 1), ("eval", 2)])
def test_statistics_and_compilation(policy: str, expected: int) -> None:
    """ "eval" runs another graph in the second pass, compiled once."""
    graphs = Graphs()
    model, fast = compiled(graphs)
    opt = SAM(model.parameters(), torch.optim.SGD, lr=0.1, model=model, bn_second=policy)
    for i in range(5):
        opt.step(closure_for(opt, fast, *data(i)))
        assert graphs.count == expected


def test_schedules_and_radii_do_not_recompile() -> None:
    graphs = Graphs()
    model, fast = compiled(graphs)
    opt = SAM(model.parameters(), torch.optim.SGD, lr=0.1, model=fast, every=2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 10)
    for i in range(6):
        opt.param_groups[0]["rho"] = 0.1 * (i + 1)
        opt.step(closure_for(opt, fast, *data(i)))
        scheduler.step()
    assert graphs.count == 1


def test_a_recompilation_would_be_seen() -> None:
    """What other implementations do to BatchNorm, toggling its momentum, recompiles."""
    graphs = Graphs()
    model, fast = compiled(graphs)
    x, y = data(0)
    losses(fast)(x, y)
    model[1].momentum = 0.0  # type: ignore[index]
    losses(fast)(x, y)
    assert graphs.count == 2


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_inductor(form: str) -> None:
    model, fast = compiled("inductor")
    twin = network(3)
    opt, eager = make("sam", model), make("sam", twin)
    for i in range(4):
        FORMS[form](opt, fast, *data(i))
        FORMS[form](eager, twin, *data(i))
        if i == 0:
            graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    for a, b in zip(weights(model), weights(twin), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


# torch's compiler looks at .grad of the loss that a closure returns, and warns of that itself
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("form", THREE)
def test_the_step_itself_inside_a_compiled_function(form: str, backend: str) -> None:
    """A user's compiled train step breaks its graph at the optimizer and gives the same weights."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model, twin = network(3), network(3)
    opt, eager = make("sam", model), make("sam", twin)

    @torch.compile(backend=backend)
    def train(x: torch.Tensor, y: torch.Tensor) -> None:
        FORMS[form](opt, model, x, y)

    for i in range(4):
        train(*data(i))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 1
    for i in range(4):
        FORMS[form](eager, twin, *data(i))
    assert equal(weights(model), weights(twin))
    assert equal(list(model.buffers()), list(twin.buffers()))
