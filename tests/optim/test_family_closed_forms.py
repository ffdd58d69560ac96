"""Closed forms of the family's perturbations: norms, optimality, invariances, and their traps."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import Quadratic, data, equal, losses, norm
from test_family_perturbations import BASE, small
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lowland.optim import (
    ASAM,
    AWP,
    GCSAM,
    SAM,
    USAM,
    LastLayerSAM,
    LayerwiseSAM,
    MongeSAM,
    MuP2,
    SharpnessAware,
    UnifiedSAM,
    coordinate_check,
    mup_groups,
)
from lowland.optim.mup import roles

SGD, INF = torch.optim.SGD, math.inf
Tensors = list[Tensor]
SHAPES = ((4, 5), (5,), (3, 2, 4))


def moved(opt: SharpnessAware, grads: Tensors, second: Tensors | None = None) -> Tensors:
    """ε for these gradients; with `second`, the step along it is taken too."""
    params = [p for group in opt.param_groups for p in group["params"]]
    before = [p.detach().clone() for p in params]
    for p, t in zip(params, grads, strict=True):
        p.grad = t.clone()
    with opt.perturbed():
        epsilon = [p.detach() - b for p, b in zip(params, before, strict=True)]
        for p, t in zip(params, second or grads, strict=True):
            p.grad = t.clone()
    assert equal([p.detach() for p in params], before)
    opt.step() if second is not None else opt.abandon()
    return epsilon


def tensors(seed: int, *shapes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes]


def params(seed: int, *shapes: tuple[int, ...]) -> list[nn.Parameter]:
    return [nn.Parameter(t) for t in tensors(seed + 77, *shapes)]


def flat(ts: Tensors) -> Tensor:
    return torch.cat([t.flatten() for t in ts])


@pytest.mark.parametrize("size", [1.0, 1e-3, 1e-6])
@pytest.mark.parametrize("p", [1.1, 1.2, 1.5, 2.0, 3.0, 10.0, INF])
def test_the_steepest_direction_of_every_p(p: float, size: float) -> None:
    """‖ε‖_p = ρ and ⟨g, ε⟩ = ρ·‖g‖_q, however small the gradient is."""
    g = [size * t for t in tensors(1, *SHAPES)]
    e = flat(moved(SAM(params(1, *SHAPES), SGD, lr=0.1, rho=0.3, p=p), g))
    q = 1.0 if p == INF else p / (p - 1)
    assert float(torch.linalg.vector_norm(e, p)) == pytest.approx(0.3, rel=1e-5)
    assert float(flat(g) @ e) == pytest.approx(
        0.3 * float(torch.linalg.vector_norm(flat(g), q)), rel=1e-5
    )


INVARIANT: dict[str, Any] = {
    "sam": (SAM, {}),
    **{f"sam p={p}": (SAM, {"p": p}) for p in (1.5, 3.0, INF)},
    **{
        f"asam {k} {p}": (ASAM, {"norm": k, "p": p})
        for k in ("elementwise", "layerwise", "filterwise")
        for p in (2.0, INF)
    },
    "layerwise": (LayerwiseSAM, {}),
    "awp": (AWP, {}),
    "last layer": (LastLayerSAM, {}),
    "mup2": (MuP2, {"base_model": BASE}),
    "gcsam": (GCSAM, {}),
    "gcsam after": (GCSAM, {"norm_after_gc": True}),
}


@pytest.mark.parametrize("name", INVARIANT)
@settings(max_examples=4)
@given(c=st.floats(1e-3, 1e3))
def test_epsilon_does_not_depend_on_the_loss_scale(name: str, c: float) -> None:
    kind, own = INVARIANT[name]
    model = small(0, torch.float64, 2 if name == "mup2" else 1)
    opt = kind(model.parameters(), SGD, lr=0.1, rho=0.3, model=model, **own)
    g = tensors(2, *[tuple(p.shape) for p in model.parameters()])
    one, other = moved(opt, g), moved(opt, [c * t for t in g])
    assert norm(one) > 0.01
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-10)


@given(seed=st.integers(0, 999), c=st.floats(0.1, 10), lam=st.floats(0, 1))
def test_lengths_of_usam_unified_and_monge(seed: int, c: float, lam: float) -> None:
    """ρn, ρ((1 − λ)n + λ) and ρ/√(1 + n²): a loss scale does not cancel."""
    g = [c * t for t in tensors(seed, *SHAPES)]
    n = float(norm(g))
    expected = {USAM: n, UnifiedSAM: (1 - lam) * n + lam, MongeSAM: 1 / math.sqrt(1 + n**2)}
    for kind, length in expected.items():
        own = {"lam": lam} if kind is UnifiedSAM else {}
        e = moved(kind(params(0, *SHAPES), SGD, lr=0.1, rho=0.2, **own), g)
        assert float(norm(e)) == pytest.approx(0.2 * length, rel=1e-9)
        assert float(flat(g) @ flat(e)) == pytest.approx(0.2 * length * n, rel=1e-9)


@given(seed=st.integers(0, 999), rho=st.floats(0.01, 2))
def test_usam_on_a_quadratic(seed: int, rho: float) -> None:
    """w⁺ = (I − η(H + ρH²))w, along the exact gradient of f + ½ρ‖∇f‖²."""
    f = Quadratic(seed)
    w = f.w.detach()
    opt = USAM(f.parameters(), SGD, rho=rho, lr=0.1)
    opt.step(loss_fn=lambda x: f() * x, batch=torch.ones(2, dtype=torch.float64))
    v = w.clone().requires_grad_()
    (u,) = torch.autograd.grad(0.5 * v @ f.H @ v + 0.5 * rho * (f.H @ v).square().sum(), v)
    torch.testing.assert_close(f.w.detach(), w - 0.1 * (f.H + rho * f.H @ f.H) @ w)
    torch.testing.assert_close(f.w.detach(), w - 0.1 * u)


@pytest.mark.parametrize("edge", [0.97, 1.03])
def test_usam_is_stable_below_its_edge_alone(edge: float) -> None:
    """λ(1 + ρλ) < 2/η."""
    rho, lam = 0.3, 2.0
    eta = edge * 2 / (lam * (1 + rho * lam))
    w = nn.Parameter(torch.ones(1, dtype=torch.float64))
    opt = USAM([w], SGD, rho=rho, lr=eta)
    for _ in range(60):
        opt.step(loss_fn=lambda x: 0.5 * lam * w**2 * x, batch=torch.ones(1).double())
    assert (abs(float(w.detach())) < 1) == (edge < 1)


def test_unified_sam_converges_as_its_theory_says() -> None:
    """μ = .2, L = 2, b = n: USAM goes to the minimum, λ = ½ and 1 stay in a neighbourhood."""
    h = torch.linspace(0.2, 2, 6, dtype=torch.float64)
    ends = {}
    for lam in (0.0, 0.5, 1.0):
        w = nn.Parameter(torch.ones(6, dtype=torch.float64))
        rho = min(1.0, 1 / (2 * (1 - lam) ** 2) if lam < 1 else 1.0) / 8
        opt = UnifiedSAM([w], SGD, rho=rho, lam=lam, lr=1 / 16)
        values = []
        for _ in range(1000):
            values.append(float(opt.step(loss_fn=lambda x: 0.5 * (h * w**2).sum() * x,  # noqa: B023
                                         batch=torch.ones(1).double())))  # fmt: skip
        ends[lam] = values
    assert all(b < a for a, b in zip(ends[0.0], ends[0.0][1:], strict=False))
    assert ends[0.0][-1] < 1e-9
    assert 1e-7 < ends[0.5][-1] < ends[1.0][-1] < 1e-3


@pytest.mark.parametrize("p", [1.5, 2.0, INF])
@pytest.mark.parametrize("kind", ["elementwise", "layerwise", "filterwise"])
def test_asam_fills_its_ball(kind: str, p: float) -> None:
    """‖T⁻¹ε‖_p = ρ, with T = 1 on biases, and `last` says so."""
    model = small(4, torch.float64)
    opt = ASAM(model.parameters(), SGD, model=model, lr=0.0, rho=0.7, norm=kind, p=p, eta=0.05)
    T = []
    for name, w in model.named_parameters():
        one = w.detach().abs() + 0.05
        if kind == "layerwise":
            one = torch.ones_like(w) * (w.detach().norm() + 0.05)
        elif kind == "filterwise" and w.ndim > 1:
            rows = w.detach().flatten(1).norm(dim=1) + 0.05
            one = (torch.ones_like(w).flatten(1) * rows[:, None]).view_as(w)
        T.append(one if "weight" in name else torch.ones_like(w))
    g = tensors(5, *[tuple(w.shape) for w in model.parameters()])
    e = moved(opt, g, g)
    inside = torch.cat([(v / t).flatten() for v, t in zip(e, T, strict=True)])
    assert float(torch.linalg.vector_norm(inside, p)) == pytest.approx(0.7, rel=1e-9)
    assert float(opt.last.perturbation_norm) == pytest.approx(0.7, rel=1e-9)


@pytest.mark.parametrize("kind", ["elementwise", "layerwise", "filterwise", "sam"])
def test_asam_does_not_see_the_scales_of_relu_layers(kind: str) -> None:
    outputs = []
    for a in (1.0, 7.0):
        torch.manual_seed(0)
        layers = [nn.Linear(5, 9, bias=False), nn.ReLU(), nn.Linear(9, 3, bias=False)]
        model = nn.Sequential(*layers).double()
        with torch.no_grad():
            model[0].weight.mul_(a)
            model[2].weight.div_(a)
        x, y = data(dtype=torch.float64)
        own = {} if kind == "sam" else {"norm": kind, "eta": 0.0}
        opt = (SAM if kind == "sam" else ASAM)(
            model.parameters(), SGD, model=model, rho=1.0, lr=0.1, **own
        )
        losses(model)(x, y).mean().backward()
        with opt.perturbed():
            outputs.append(model(x).detach())
            losses(model)(x, y).mean().backward()
    distance = float((outputs[0] - outputs[1]).abs().max())
    assert distance > 0.05 if kind == "sam" else distance < 1e-11


@pytest.mark.parametrize("kind", ["elementwise", "layerwise", "filterwise"])
def test_asam_with_biases_in_a_group_of_their_own(kind: str) -> None:
    """The usual groups without weight decay: nothing in them is scaled."""
    ends = []
    for split in (False, True):
        layer = nn.Linear(3, 2)
        with torch.no_grad():
            layer.weight.copy_(tensors(0, (2, 3))[0])
        groups = [{"params": [p]} for p in layer.parameters()] if split else layer.parameters()
        opt = ASAM(groups, SGD, lr=0.1, model=layer, norm=kind)
        ends.append(moved(opt, tensors(1, (2, 3), (2,), dtype=torch.float32)))
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b)


def test_layerwise_moves_every_tensor_with_a_gradient_by_rho() -> None:
    g = tensors(3, *SHAPES, (6,))
    g[1].zero_()
    opt = LayerwiseSAM(params(3, *SHAPES, (6,)), SGD, lr=0.0, rho=0.4)
    e = moved(opt, g, g)
    assert [float(v.norm()) for v in e] == pytest.approx([0.4, 0.0, 0.4, 0.4], rel=1e-9)
    assert float(opt.last.perturbation_norm) == pytest.approx(0.4 * math.sqrt(3), rel=1e-9)
    weights = params(3, *SHAPES)
    e = moved(AWP(weights, SGD, lr=0.1, rho=0.4), tensors(3, *SHAPES))
    sizes = [0.4 * float(w.detach().norm()) * (w.ndim > 1) for w in weights]
    assert [float(v.norm()) for v in e] == pytest.approx(sizes, rel=1e-9)


def test_layerwise_with_one_tensor_is_sam() -> None:
    g = tensors(8, (4, 5))
    ends = [moved(kind(params(8, (4, 5)), SGD, lr=0.1, rho=0.4), g) for kind in (LayerwiseSAM, SAM)]
    torch.testing.assert_close(ends[0][0], ends[1][0], rtol=1e-12, atol=1e-14)


def test_last_layer_sam_is_its_fast_form() -> None:
    """One pass through the features, two through the head: the same u, to round-off."""
    model, (x, y) = small(6, torch.float64), data(6, dtype=torch.float64)
    head, before = model[-1], [p.detach().clone() for p in model.parameters()]
    features = model[:-1](x)
    g = torch.autograd.grad(cross_entropy(head(features), y), list(head.parameters()),
                            retain_graph=True)  # fmt: skip
    n = norm(list(g))
    W, b = [(p + 0.5 * t / n).detach().requires_grad_() for p, t in zip(head.parameters(), g)]  # noqa: B905
    inner = [*model[:-1].parameters(), W, b]
    u = torch.autograd.grad(cross_entropy(features @ W.T + b, y), inner)
    opt = LastLayerSAM(model.parameters(), SGD, model=model, rho=0.5, lr=1.0)
    losses(model)(x, y).mean().backward()
    with opt.perturbed():
        assert equal([p.detach() for p in model[:-1].parameters()], before[:-2])
        assert not torch.equal(head.bias, before[-1])
        losses(model)(x, y).mean().backward()
    opt.step()
    for p, old, t in zip(model.parameters(), before, u, strict=True):
        torch.testing.assert_close(p.detach(), old - t, rtol=1e-11, atol=1e-12)


def test_monge_is_the_best_in_its_ball() -> None:
    """εᵀ(I + ggᵀ)ε = ρ², and no random direction of that length has more ⟨g, ε⟩."""
    (g,) = tensors(9, (7,))
    (e,) = moved(MongeSAM(params(9, (7,)), SGD, lr=0.1, rho=0.3), [g])
    assert float(e @ e + (g @ e) ** 2) == pytest.approx(0.09, rel=1e-12)
    v = torch.randn(20_000, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    v = 0.3 * v / (v.square().sum(1) + (v @ g) ** 2).sqrt()[:, None]
    assert float((v @ g).max()) < float(g @ e)


def test_monge_follows_rotations_and_nothing_else() -> None:
    (A,), (g,) = tensors(1, (5, 5)), tensors(2, (5,))
    Q = torch.linalg.qr(A).Q
    (e,) = moved(MongeSAM(params(0, (5,)), SGD, lr=0.1, rho=0.3), [g])
    for change, follows in ((Q, True), (A, False)):  # w = Cφ has g_φ = Cᵀg and ε_w = Cε_φ
        (e_phi,) = moved(MongeSAM(params(0, (5,)), SGD, lr=0.1, rho=0.3), [change.T @ g])
        distance = float((change @ e_phi - e).abs().max())
        assert distance < 1e-12 if follows else distance > 1e-3


class Wide(nn.Module):
    """Every kind of tensor that muP² tells apart."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.tokens, self.conv = nn.Embedding(11, d), nn.Conv2d(3, d, 2)
        self.middle, self.deep = nn.Conv2d(d, 2 * d, 2), nn.Linear(d, d)
        self.depthwise = nn.Conv2d(d, d, 3, groups=d)
        self.up, self.back = nn.ConvTranspose2d(3, d, 2), nn.ConvTranspose2d(d, 3, 2)
        self.norm, self.head = nn.LayerNorm(d), nn.Linear(d, 3)
        self.gate = nn.Parameter(torch.ones(()))


def test_roles() -> None:
    inputs = ["tokens.weight", "conv.weight", "conv.bias", "middle.bias", "deep.bias", "up.weight"]
    inputs += ["up.bias", "norm.weight", "norm.bias", "depthwise.weight", "depthwise.bias"]
    expected = dict.fromkeys(inputs, 4.0)
    expected |= dict.fromkeys(["middle.weight", "deep.weight"], 1.0)
    expected |= dict.fromkeys(["head.weight", "back.weight"], 0.25)
    expected |= dict.fromkeys(["head.bias", "back.bias", "gate"], 1.0)
    model = Wide(8)
    assert {name: role.scale for name, role in roles(model, Wide(2)).items()} == expected
    rates = {g["lr"]: len(g["params"]) for g in mup_groups(model, Wide(2), 0.1)}
    assert rates == pytest.approx({0.4: 11, 0.1: 5, 0.025: 2})
    opt = MuP2(model.parameters(), SGD, lr=0.1, rho=0.3, model=model, base_model=Wide(2))
    model.double()
    g = tensors(4, *[tuple(p.shape) for p in model.parameters()])
    s = [expected[name] for name, _ in model.named_parameters()]
    D = norm([math.sqrt(a) * t for a, t in zip(s, g, strict=True)])
    for e, a, t in zip(moved(opt, g), s, g, strict=True):
        torch.testing.assert_close(e, 0.3 * a * t / D, rtol=1e-9, atol=1e-12)


def test_embeddings_of_position_are_input_like() -> None:
    """A class token (1, 1, d) and positions (1, T, d) grow with the width, along the last axis."""

    def build(d: int) -> nn.Module:
        model = nn.Module()
        model.cls, model.position = (nn.Parameter(torch.ones(1, n, d)) for n in (1, 7))
        return model

    assert {role.scale for role in roles(build(8), build(2)).values()} == {4.0}


def test_mup2_acts_alike_at_every_width_and_sam_does_not() -> None:
    """Within 15 % from width 64 to 512, for labels with a mean to learn.

    Balanced labels that the inputs say nothing about leave so little signal that finite width shows
    in the output layer: 0.7 of it at width 512.
    """

    def network(n: int) -> nn.Module:
        layers = [nn.Linear(10, n), nn.Tanh(), nn.Linear(n, n), nn.Tanh(), nn.Linear(n, 4)]
        model = nn.Sequential(*layers).double()
        with torch.no_grad():
            for p, std in zip(model.parameters(), (1, 1, n**-0.5, 1, 1 / n, 0), strict=True):
                p.normal_().mul_(std)
        return model

    def make(kind: Any, **own: Any) -> Any:
        return lambda n: (
            model := network(n),
            kind(model.parameters(), SGD, model=model, rho=0.05, lr=0.1, **own),
        )

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(32, 10, generator=generator).double()
    y = torch.randint(0, 4, (32,), generator=generator)
    widths = [64, 128, 256, 512]

    def spread(maker: Any) -> dict[str, float]:
        table = coordinate_check(maker, widths, lambda m: cross_entropy(m(x), y), range(24))
        return {name: max(row) / min(row) - 1 for name, row in table.items()}

    assert max(spread(make(MuP2, base_model=network(64))).values()) < 0.15
    assert min(spread(make(SAM)).values()) > 1.0


def test_gcsam_centers_the_rows_of_epsilon_and_keeps_the_norm_of_g() -> None:
    g = [t + 1.0 for t in tensors(2, *SHAPES)]
    for after in (False, True):
        opt = GCSAM(params(0, *SHAPES), SGD, lr=0.0, rho=0.3, norm_after_gc=after)
        e = moved(opt, g, g)
        for v in (e[0], e[2]):
            assert v.flatten(1).mean(1).abs().max() < 1e-15
        if after:
            assert float(norm(e)) == pytest.approx(0.3, rel=1e-9)
        else:
            torch.testing.assert_close(e[1], 0.3 * g[1] / norm(g))
            assert float(norm(e)) < 0.29
        assert float(opt.last.perturbation_norm) == pytest.approx(float(norm(e)), rel=1e-9)


@pytest.mark.parametrize("after", [False, True])
def test_gcsam_with_nothing_to_center_is_sam(after: bool) -> None:
    """Vectors bit for bit, centered matrices to round-off: centering is idempotent."""
    ends = [moved(k(params(1, (5,), (3,)), SGD, lr=0.1, rho=0.3, **own), tensors(1, (5,), (3,)))
            for k, own in ((GCSAM, {"norm_after_gc": after}), (SAM, {}))]  # fmt: skip
    assert equal(*ends)
    (g,) = tensors(1, (4, 6))
    g = [g - g.mean(1, keepdim=True)]
    ends = [moved(k(params(1, (4, 6)), SGD, lr=0.1, rho=0.3, **own), g)
            for k, own in ((GCSAM, {"norm_after_gc": after}), (SAM, {}))]  # fmt: skip
    torch.testing.assert_close(ends[0][0], ends[1][0], rtol=1e-12, atol=1e-14)


def test_gcsam_does_not_normalize_rounding_noise() -> None:
    """Rows of one value each have nothing left but rounding once they are centered."""
    g = tensors(3, (8, 1), dtype=torch.float32)[0].expand(8, 50) * 0.37
    w = [nn.Parameter(torch.zeros(8, 50))]
    (e,) = moved(GCSAM(w, SGD, lr=0.1, rho=0.5, norm_after_gc=True), [g])
    assert float(e.norm()) < 1e-5
