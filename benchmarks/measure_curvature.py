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
import importlib.util
import math
import shutil
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lowland.core.student import student_t
from lowland.data.digits import read_digits
from lowland.measure.curvature import HessianOperator, hessian_eigenvalues, hessian_trace
from lowland.models import create as create_model
from rounds import Step, interleaved, save

Row = dict[str, Any]
Data = list[tuple[Tensor, Tensor]]
PREDICTED = {
    ("hessian", "kept"): 2.0,
    ("hessian", "made anew"): 3.0,
    ("ggn", "kept"): 4 / 3,
    ("ggn", "made anew"): 7 / 3,
}
COMPILER = torch.cuda.is_available() or shutil.which("g++") is not None
PEERS = [name for name in ("curvlinops", "pyhessian") if importlib.util.find_spec(name)]


# networks


class Block(nn.Module):
    """Causal attention and an MLP, both after a LayerNorm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        examples, tokens, width = x.shape
        parts = self.mix(self.norm1(x)).chunk(3, -1)
        q, k, v = (p.view(examples, tokens, self.heads, -1).transpose(1, 2) for p in parts)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(examples, tokens, width))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class Language(nn.Module):
    """A small GPT: tied embeddings, learned positions."""

    def __init__(self, words: int, width: int, layers: int, tokens: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.places = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.body = nn.Sequential(*[Block(width, 4) for _ in range(layers)], nn.LayerNorm(width))
        self.head = nn.Linear(width, words, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.body(self.embed(tokens) + self.places)).flatten(0, 1)


def language_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets.flatten())


def resnet(quick: bool) -> tuple[nn.Module, Data, Any]:
    width = 16 if quick else 64
    model = create_model("resnet18", shape=(3, 32, 32), classes=10, width=width)
    return model, [(torch.randn(4, 3, 32, 32), torch.randint(0, 10, (4,)))], nn.CrossEntropyLoss()


def mlp(quick: bool) -> tuple[nn.Module, Data, Any]:
    layers = [nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)]
    data = [(torch.randn(128, 784), torch.randint(0, 10, (128,)))]
    return nn.Sequential(*layers), data, nn.CrossEntropyLoss()


def language(quick: bool) -> tuple[nn.Module, Data, Any]:
    model = Language(512, 128, 2 if quick else 4, 64)
    tokens = torch.randint(0, 512, (4, 65))
    return model, [(tokens[:, :-1], tokens[:, 1:])], language_loss


NETWORKS = {"ResNet-18, CIFAR size": resnet, "MLP": mlp, "small GPT": language}


def weights_of(model: nn.Module) -> str:
    return f"{sum(p.numel() for p in model.parameters()) / 1e6:.3f}M weights"


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


def peer_products(model: nn.Module, data: Data, loss_fn: Any) -> dict[str, Step]:
    """matrix -> one product by curvlinops, whose losses are modules of outputs (b, classes)."""
    if "curvlinops" not in PEERS or not isinstance(loss_fn, nn.Module):
        return {}
    import curvlinops

    found: dict[str, Step] = {}
    kinds = {"hessian": curvlinops.HessianLinearOperator, "ggn": curvlinops.GGNLinearOperator}
    for matrix, kind in kinds.items():
        operator = kind(model, loss_fn, list(model.parameters()), data, check_deterministic=False)
        vector = torch.randn(operator.shape[1])
        operator @ vector
        found[matrix] = lambda o=operator, v=vector: o @ v
    return found


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


def trained(quick: bool) -> tuple[nn.Module, Data]:
    """An MLP that has learned the digits to the end of its first descent, and its training data."""
    train = read_digits("digits", seed=0).train
    x, y = train.images.flatten(1).float() / 16, train.labels
    torch.manual_seed(0)
    width = 32 if quick else 128
    layers = [nn.Linear(64, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh()]
    model = nn.Sequential(*layers, nn.Linear(width, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(100):
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model.eval(), list(zip(x.split(256), y.split(256), strict=True))


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


Setting = tuple[str, Callable[[], list[float]]]
Estimate = Callable[[int, int], float]


def cheapest(settings: list[Setting], exact: Any, limit: float, rounds: int) -> tuple[float, str]:
    """The first of the settings, from cheap to dear, with errors within the limit."""
    for words, run in settings:
        chosen, error = run, worst(run(), exact)
        said = f"{words}, error {error:.0e}"
        if error <= limit:
            return seconds(chosen, rounds)[0], said
    return seconds(chosen, 1)[0], f"{said}, still not accurate"


def eigenvalue_peers(model: nn.Module, data: Data) -> dict[str, list[Setting]]:
    """library -> settings from cheap to dear, each giving five eigenvalues by magnitude."""
    loss_fn, found = nn.CrossEntropyLoss(), {}
    if "pyhessian" in PEERS:
        from pyhessian import hessian

        def power(steps: int, tolerance: float) -> list[float]:
            torch.manual_seed(0)
            peer = hessian(model, loss_fn, dataloader=data, cuda=False)
            values = peer.eigenvalues(maxIter=steps, tol=tolerance, top_n=5)[0]
            return sorted(values, key=abs, reverse=True)

        found["PyHessian"] = [
            (f"maxIter={m}, tol={t:g}", lambda m=m, t=t: power(m, t))
            for m, t in ((100, 1e-3), (300, 1e-4), (1000, 1e-5), (3000, 1e-6))
        ]
    if "curvlinops" in PEERS:
        import curvlinops
        import numpy as np
        from scipy.sparse.linalg import eigsh

        def arnoldi(tolerance: float) -> list[float]:
            peer = curvlinops.HessianLinearOperator(
                model, loss_fn, list(model.parameters()), data
            ).to_scipy()
            start = np.random.default_rng(0).standard_normal(peer.shape[0]).astype(np.float32)
            values = eigsh(peer, k=5, which="LM", tol=tolerance, v0=start)[0]
            return sorted(values.tolist(), key=abs, reverse=True)

        found["curvlinops and eigsh"] = [
            (f"tol={t:g}", lambda t=t: arnoldi(t)) for t in (1e-1, 1e-2, 1e-3, 1e-4)
        ]
    return found


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


def trace_peers(model: nn.Module, data: Data) -> dict[str, tuple[Estimate, int]]:
    """library -> (vectors, seed) -> its estimate, and how many of them make an interval."""
    loss_fn, found = nn.CrossEntropyLoss(), {}
    if "pyhessian" in PEERS:
        from pyhessian import hessian

        def mean_of_probes(vectors: int, seed: int) -> float:
            torch.manual_seed(seed)
            peer = hessian(model, loss_fn, dataloader=data, cuda=False)
            return statistics.fmean(peer.trace(maxIter=vectors, tol=0.0))

        found["PyHessian"] = mean_of_probes, 1
    if "curvlinops" in PEERS:
        import curvlinops

        def sketched(vectors: int, seed: int) -> float:
            torch.manual_seed(seed)
            peer = curvlinops.HessianLinearOperator(model, loss_fn, list(model.parameters()), data)
            return float(curvlinops.hutchpp_trace(peer, vectors))

        found["curvlinops, Hutch++"] = sketched, 5
    return found


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
