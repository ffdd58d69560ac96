"""The logistic loss of many probes at once, its gradient, and what a certificate needs of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from lowland.measure.probes.design import Design

Penalty = Literal["l2", "l1"]
PENALTIES: tuple[Penalty, ...] = get_args(Penalty)

ROWS = 4096
"""Rows of a piece on the CPU, where they and their logits should stay in the cache."""

LOGITS = {"cpu": 2**21, "cuda": 2**26}
"""Logits of a piece at most."""


@dataclass(frozen=True)
class Tasks:
    """What is to be predicted: label sets and weightings of the same n examples.

    Attributes:
        labels: (t, n) numbers of the classes, from 0 on.
        weights: (t, n) float64 weights of the examples, at least 0; None for 1 everywhere.
        classes: K, the same for all tasks.
    """

    labels: Tensor
    weights: Tensor | None
    classes: int

    def class_weights(self) -> Tensor:
        """(t, K) float64: the weight of each class in each task."""
        found = torch.zeros(
            len(self.labels), self.classes, dtype=torch.float64, device=self.labels.device
        )
        weights = self.weights
        ones = torch.ones(self.labels.shape, dtype=torch.float64, device=self.labels.device)
        return found.scatter_add_(1, self.labels, ones if weights is None else weights)


@dataclass(frozen=True)
class Problems:
    """B fits: fit b is min over W (c, d) and intercepts (c) of C_b·Σ_i w_i·ℓ_i + R(W).

    ℓ_i = -log softmax(W·x_i + intercept) at the label; R is ½‖W‖² or Σ|W|; the intercept is not
    penalised. c = K columns, or 1 for two classes: the logit of the second class, that of the
    first being 0.

    Attributes:
        design: the examples.
        tasks: labels and weights.
        task: (B,) which task each fit is for.
        C: (B,) float64.
        penalty: "l2" or "l1".
    """

    design: Design
    tasks: Tasks
    task: Tensor
    C: Tensor
    penalty: Penalty

    @property
    def columns(self) -> int:
        """Rows of W that are free: K, or 1 for two classes."""
        return 1 if self.tasks.classes == 2 else self.tasks.classes

    def select(self, keep: Tensor) -> Problems:
        """Some of the fits."""
        return replace(self, task=self.task[keep], C=self.C[keep])

    def start(self, dtype: torch.dtype) -> Tensor:
        """Zero coefficients, and the intercepts that fit the shares of the classes."""
        shares = self.tasks.class_weights()[self.task].log()
        shares = (
            shares[:, 1:] - shares[:, :1]
            if self.columns == 1
            else (shares - shares.mean(1, keepdim=True))
        )
        x = shares.new_zeros(len(self.C), self.columns, self.design.d + 1)
        x[..., -1] = shares
        return x.to(dtype)


@dataclass(frozen=True)
class Evaluation:
    """One read of the data.

    Attributes:
        loss: (B,) Σ w_i·ℓ_i, float64.
        gradient: (B, c, d + 1) of C·Σ w_i·ℓ_i by W and, last, by the intercept.
        entropy: (B,) Σ w_i·H(p_i) in nats, or None.
        own: (B, n) the probability of each example's label, or None.
    """

    loss: Tensor
    gradient: Tensor
    entropy: Tensor | None = None
    own: Tensor | None = None


def piece_rows(problems: Problems) -> int:
    """Examples to take at a time."""
    kind = problems.design.device.type
    logits = max(1, len(problems.C) * problems.columns)
    most = LOGITS[kind] // logits
    return max(64, min(ROWS, most) if kind == "cpu" else most)


def log_probabilities(problems: Problems, x: Tensor, rows: Tensor) -> Tensor:
    """(B, K, m) log p of every class for m rows, in the rows' type. Logits are class-major.

    Rows of W times columns of examples keeps every elementwise step contiguous over examples, and
    is several times faster than (m, B·c) where B·c is small.
    """
    count, columns, d = x.shape[0], x.shape[1], x.shape[2] - 1
    logits = (x[..., :-1].reshape(count * columns, d) @ rows.T).view(count, columns, -1)
    logits += x[..., -1:]
    if columns == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], 1)
    return torch.log_softmax(logits, 1)


def evaluate(problems: Problems, x: Tensor, *, dual: bool = False) -> Evaluation:
    """Loss and gradient of every fit at x (B, c, d + 1), in x's type with sums in float64.

    Cost: 4·n·d·B·c operations and one read of the features.
    """
    design, tasks, count, columns = problems.design, problems.tasks, len(x), problems.columns
    loss = torch.zeros(count, dtype=torch.float64, device=x.device)
    entropy = torch.zeros_like(loss)
    gradient = x.new_zeros(count * columns, design.d)
    residuals = torch.zeros(count, columns, dtype=torch.float64, device=x.device)
    own: list[Tensor] = []
    step = piece_rows(problems)
    for start in range(0, design.n, step):
        rows = design.rows(start, start + step, x.dtype)
        logp = log_probabilities(problems, x, rows)
        label = tasks.labels[:, start : start + step][problems.task][:, None]
        nll = logp.gather(1, label)[:, 0].neg()
        p = logp.exp()
        if dual:
            own.append(nll.neg().exp())
            # 0·log 0 = 0
            each = -(p * logp.clamp_min(torch.finfo(x.dtype).min)).sum(1)
        p.scatter_add_(1, label, p.new_full((), -1.0).expand_as(label))
        if tasks.weights is not None:
            w = tasks.weights[:, start : start + step][problems.task].to(x.dtype)
            nll, p = nll * w, p * w[:, None]
            each = each * w if dual else nll
        loss += nll.double().sum(1)
        if dual:
            entropy += each.double().sum(1)
        p = p[:, -columns:]
        residuals += p.sum(2).double()
        gradient.addmm_(p.reshape(count * columns, -1), rows)
    full = torch.cat([gradient.view(count, columns, -1), residuals.to(x.dtype)[..., None]], 2)
    full *= problems.C.to(x.dtype)[:, None, None]
    if not dual:
        return Evaluation(loss, full)
    return Evaluation(loss, full, entropy, torch.cat(own, 1))


def gradient_at(problems: Problems, x: Tensor) -> Tensor:
    """The gradient of C·Σ w·ℓ at x, in x's type."""
    return evaluate(problems, x).gradient
