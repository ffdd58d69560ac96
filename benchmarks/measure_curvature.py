"""What second derivatives cost: products in gradients, eigenvalues and trace beside two libraries.

Products: seconds of one Hessian or Gauss-Newton product, eager and compiled, with the graphs of the
batches kept and not, in gradients of the same data timed in the same rounds, beside the number
that counting operations predicts (forward 1/3 and backward 2/3 of a gradient, each further
derivative of a product of two factors twice the product), and beside curvlinops.

Instruments: the five eigenvalues of largest magnitude to residuals of 1e-3, and the trace to a 95%
half-width of 5%, on a network trained on handwritten digits. PyHessian and curvlinops (with SciPy's
eigsh) run with the cheapest of their settings that is as accurate against float64 references, which
their users do not have. A trace has an interval where there are independent estimates: PyHessian's
probes, five runs of curvlinops.

Growth: a product in gradients over a decade of examples, of weights, and of vectors at a time.

`ratio` is other_s / ours_s, how many times faster lowland is; `gradients` is ours in gradients.

    python benchmarks/measure_curvature.py [--quick] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import contextlib
import math
import shutil
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from curvature_networks import NETWORKS, Data, trained, weights_of
from curvature_peers import PEERS, Estimate, Setting, eigenvalue_peers, peer_products, trace_peers
from lowland.core.student import student_t
from lowland.measure.curvature import HessianOperator, hessian_eigenvalues, hessian_trace
from rounds import Step, interleaved, save

Row = dict[str, Any]
PREDICTED = {
    ("hessian", "kept"): 2.0,
    ("hessian", "made anew"): 3.0,
    ("ggn", "kept"): 4 / 3,
    ("ggn", "made anew"): 7 / 3,
}
COMPILER = torch.cuda.is_available() or shutil.which("g++") is not None


# products


def gradient(model: nn.Module, data: Data, loss_fn: Any) -> Step:
    """A gradient of the loss over the data, in eval mode, as an optimizer would want it."""
    weights = list(model.parameters())

    def step() -> None:
        for x, y in data:
            torch.autograd.grad(loss_fn(model(x), y), weights)

    return step


@contextlib.contextmanager
def our_products(model: nn.Module, data: Data, loss_fn: Any, modes: list[Any]) -> Iterator[Any]:
    """(matrix, graphs, how) -> one product."""
    steps = {}
    with contextlib.ExitStack() as stack:
        for matrix, graphs, compiled in modes:
            room = 2**33 if graphs == "kept" else 0
            operator = stack.enter_context(
                HessianOperator(
                    model, loss_fn, data, matrix=matrix, graph_bytes=room, compile=compiled
                )
            )
            vector = torch.randn(operator.size)
            operator @ vector
            how = "compiled" if operator.compiled else "eager"
            steps[matrix, graphs, how] = (operator, lambda o=operator, v=vector: o @ v)
        yield steps


def product_rows(name: str, quick: bool, compiled: bool) -> list[Row]:
    torch.manual_seed(0)
    model, data, loss_fn = NETWORKS[name](quick)
    model.eval()
    modes = [(matrix, graphs, False) for matrix, graphs in PREDICTED]
    if compiled:
        modes += [("hessian", "kept", True), ("hessian", "made anew", True), ("ggn", "kept", True)]
    peers = peer_products(model, data, loss_fn)
    with our_products(model, data, loss_fn, modes) as steps:
        # requires_grad is the operator's inside: its weights are all free here, as outside
        timed: dict[Any, Step] = {key: step for key, (_, step) in steps.items()}
        timed |= {("peer", matrix): step for matrix, step in peers.items()}
        timed["gradient"] = gradient(model, data, loss_fn)
        if compiled:
            timed["compiled gradient"] = compiled_gradient(model, data, loss_fn)
        rounds = 5 if quick else 25
        times = interleaved(timed, rounds, seed=0)
        kept = {key: operator.kept_bytes for key, (operator, _) in steps.items()}
    return [
        product_row(name, key, times, kept[key], f"{weights_of(model)}, {len(data[0][1])} examples")
        for key in steps
    ]


def compiled_gradient(model: nn.Module, data: Data, loss_fn: Any) -> Step:
    options = {} if torch.cuda.is_available() else {"layout_optimization": False}
    run = torch.compile(model, dynamic=False, options=options)
    weights = list(model.parameters())

    def step() -> None:
        for x, y in data:
            torch.autograd.grad(loss_fn(run(x), y), weights)

    for _ in range(2):
        step()
    return step


def product_row(name: str, key: Any, times: dict[Any, list[float]], kept: int, size: str) -> Row:
    matrix, graphs, how = key
    own, base = times[key], times["gradient"]
    note = f"predicted {PREDICTED[matrix, graphs]:.2f} gradients"
    if how == "compiled":
        note += f"; {in_units(own, times['compiled gradient']):.2f} compiled gradients"
    peer = times.get(("peer", matrix))
    if peer is not None:
        note += f"; curvlinops eager {in_units(peer, base):.2f}"
    return {
        "name": f"{name}: {matrix} product, {how}, graph {graphs}",
        "size": size,
        "ours_s": statistics.median(own),
        "other": None if peer is None else "curvlinops",
        "other_s": None if peer is None else statistics.median(peer),
        "ratio": None if peer is None else in_units(peer, own),
        "gradients": in_units(own, base),
        "kept_bytes": kept,
        "note": note,
    }


def in_units(times: list[float], units: list[float]) -> float:
    """The median over rounds of t/unit."""
    return statistics.median(t / u for t, u in zip(times, units, strict=True))


# growth


def growth_rows(quick: bool) -> list[Row]:
    cases: list[tuple[str, int, int, int]] = [
        (f"{n} examples in batches of 100", 128, n, 1) for n in (100, 1000)
    ]
    cases += [(f"MLP of width {width}", width, 100, 1) for width in (100, 1000)]
    cases += [(f"{count} vectors at a time", 512, 100, count) for count in (1, 10)]
    return [growth_row(*case, rounds=5 if quick else 15) for case in cases]


def growth_row(name: str, width: int, n: int, count: int, rounds: int) -> Row:
    """Without kept graphs: the cost that does not depend on how much memory there is."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
    model.append(nn.Linear(width, 10))
    x, y = torch.randn(n, 256), torch.randint(0, 10, (n,))
    data = list(zip(x.split(100), y.split(100), strict=True))
    loss_fn = nn.CrossEntropyLoss()
    with HessianOperator(model, loss_fn, data, graph_bytes=0) as operator:
        vectors = torch.randn(count, operator.size)
        steps: dict[str, Step] = {
            "product": lambda: operator.multiply(vectors),
            "gradient": gradient(model, data, loss_fn),
        }
        times = interleaved(steps, rounds, seed=0)
    own = [t / count for t in times["product"]]
    return {
        "name": f"growth: {name}",
        "size": f"{weights_of(model)}, {n} examples",
        "ours_s": statistics.median(own),
        "other": None,
        "other_s": None,
        "ratio": None,
        "gradients": in_units(own, times["gradient"]),
        "note": f"per product; predicted {(1 + 2 * count) / count:.2f} gradients",
    }


# instruments


def seconds(run: Callable[[], Any], rounds: int) -> tuple[float, Any]:
    """The median time, and what the last run gave."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        found = run()
        times.append(time.perf_counter() - began)
    return statistics.median(times), found


def eigenvalue_rows(model: nn.Module, data: Data, rounds: int) -> list[Row]:
    loss_fn = nn.CrossEntropyLoss()
    exact = hessian_eigenvalues(
        model, loss_fn, data, 5, which="magnitude", tolerance=1e-8, dtype=torch.float64
    )
    limit = 1e-3
    rows = []
    for look in (True, False):
        own_s, own = seconds(
            lambda look=look: hessian_eigenvalues(
                model, loss_fn, data, 5, which="magnitude", look_for_missed=look
            ),
            rounds,
        )
        said = "missed ones looked for" if look else "missed ones not looked for"
        for peer, settings in eigenvalue_peers(model, data).items():
            other_s, words = cheapest(settings, exact.values, limit, rounds)
            rows.append(
                {
                    "name": f"top 5 eigenvalues, {said}",
                    "size": f"{weights_of(model)}, {exact.n} examples",
                    "ours_s": own_s,
                    "other": peer,
                    "other_s": other_s,
                    "ratio": other_s / own_s,
                    "note": f"ours {own.products} products, error "
                    f"{worst(own.values, exact.values):.0e}; {words}",
                }
            )
    return rows


def worst(values: Any, exact: Any) -> float:
    """The largest relative error of eigenvalues in their order."""
    if len(values) < len(exact):
        return math.inf
    return max(abs(v - e) / abs(e) for v, e in zip(values, exact, strict=True))


def cheapest(settings: list[Setting], exact: Any, limit: float, rounds: int) -> tuple[float, str]:
    """The first of the settings, from cheap to dear, with errors within the limit."""
    for words, run in settings:
        chosen, error = run, worst(run(), exact)
        said = f"{words}, error {error:.0e}"
        if error <= limit:
            return seconds(chosen, rounds)[0], said
    return seconds(chosen, 1)[0], f"{said}, still not accurate"


def trace_rows(model: nn.Module, data: Data, rounds: int) -> list[Row]:
    loss_fn = nn.CrossEntropyLoss()
    own_s, own = seconds(lambda: hessian_trace(model, loss_fn, data, tolerance=0.05), rounds)
    half = 0.05 * abs(own.value)
    rows = []
    for peer, (run, estimates) in trace_peers(model, data).items():
        quantile = 1.96 if estimates == 1 else student_t(0.95, estimates - 1)
        vectors, scatter = enough(run, half * math.sqrt(estimates) / quantile)
        other_s, _ = seconds(lambda run=run, v=vectors: run(v, 0), rounds)
        other_s *= estimates
        rows.append(
            {
                "name": "trace to 5%",
                "size": f"{weights_of(model)}, {own.n} examples",
                "ours_s": own_s,
                "other": peer,
                "other_s": other_s,
                "ratio": other_s / own_s,
                "note": f"ours {own.products} products; theirs {estimates} x {vectors}, one run "
                f"with a standard deviation of {scatter / abs(own.value):.1%}",
            }
        )
    return rows


def enough(run: Estimate, limit: float, repeats: int = 12) -> tuple[int, float]:
    """How many vectors keep the standard deviation of a library's estimates within the limit."""
    vectors = 15
    while True:
        scatter = statistics.stdev(run(vectors, seed) for seed in range(repeats))
        if scatter <= limit or vectors > 400:
            return vectors, scatter
        vectors = math.ceil(1.3 * vectors / 3) * 3


# all together


def rows(quick: bool) -> list[Row]:
    """Every row: name, size, ours_s, other, other_s, ratio, gradients, note, kept_bytes."""
    warnings.filterwarnings("ignore", message="Using backward\\(\\) with create_graph")
    found: list[Row] = []
    for name in NETWORKS:
        found += product_rows(name, quick, compiled=COMPILER and not quick)
    found += growth_rows(quick)
    model, data = trained(quick)
    rounds = 2 if quick else 5
    found += eigenvalue_rows(model, data, rounds)
    found += trace_rows(model, data, rounds)
    for peer in {"curvlinops", "pyhessian"} - set(PEERS):
        found.append({"name": f"{peer} is not installed: not compared", "size": ""})
    return found


def table(found: list[Row]) -> str:
    lines = []
    for row in found:
        parts = [row["name"], row["size"]]
        if row.get("ours_s") is not None:
            parts.append(f"{1e3 * row['ours_s']:.1f} ms")
        if row.get("gradients") is not None:
            parts.append(f"{row['gradients']:.2f} gradients")
        if row.get("ratio") is not None:
            parts.append(f"{row['other']} {1e3 * row['other_s']:.1f} ms, {row['ratio']:.1f} times")
        if row.get("kept_bytes"):
            parts.append(f"graph {row['kept_bytes'] / 1e6:.0f} MB")
        lines.append(" | ".join([*parts, row.get("note", "")]))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = rows(given.quick)
    text = table(found)
    print(text)
    save(given.out, text, {"rows": found})


if __name__ == "__main__":
    main()
