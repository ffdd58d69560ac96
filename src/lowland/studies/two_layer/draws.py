"""What is drawn: inputs, teachers, students and the order of examples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lowland.studies.two_layer.activations import Activation, with_ones

INPUTS = 3
EXAMPLES = 20
TEST_EXAMPLES = 1000
TEACHER_UNITS = 3
UNITS = 100
STEPS = 19_953
"""⌊10^4.3⌋ + 1 iterations, each with one example."""


@dataclass(frozen=True)
class Network:
    """Two-layer networks f(x) = Σ_j a_j·σ(w_j·x + b_j) + c, one per run.

    Attributes:
        weight: (runs, d + 1, units): column j holds w_j and, last, b_j.
        outer: (runs, units) a.
        offset: (runs,) c.
    """

    weight: Tensor
    outer: Tensor
    offset: Tensor

    def hidden(self, x: Tensor, activation: Activation) -> Tensor:
        """(runs, examples, units) σ(w·x + b) of inputs (runs, examples, d)."""
        return activation(with_ones(x) @ self.weight)

    def outputs(self, x: Tensor, activation: Activation) -> Tensor:
        """(runs, examples) f(x)."""
        hidden = self.hidden(x, activation)
        return (hidden @ self.outer[..., None])[..., 0] + self.offset[:, None]

    def norm(self) -> Tensor:
        """(runs,) √ of the sum of squares of all weights and biases."""
        squares = self.weight.square().sum((1, 2)) + self.outer.square().sum(1)
        return (squares + self.offset.square()).sqrt()


@dataclass(frozen=True)
class Draw:
    """One seed: its data, its student at the beginning, and which example each step takes.

    Attributes:
        x: (20, 3) training inputs on the unit sphere.
        y: (20,) what the teacher says of them.
        test_x: (1000, 3) test inputs.
        test_y: (1000,) what the teacher says of those.
        student: the network at the beginning (one run).
        order: (steps,) row of each step.
    """

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor
    student: Network
    order: Tensor


def draw(
    activation: Activation,
    seed: int,
    *,
    steps: int = STEPS,
    units: int = UNITS,
    teacher_units: int = TEACHER_UNITS,
    initial_scale: float | None = None,
) -> Draw:
    """Data, student and order of one seed, from the generators and in the order published.

    NumPy's legacy generator draws inputs and the order of examples, torch's the weights, each
    started at `seed` for the data and again for the student. Weights are standard normals in the
    order W, a, b, c after the default initialisation of two linear layers has used its numbers; the
    teacher's rows are scaled to length 1 and its a replaced by signs. Those are multiplied by
    √(3 / `teacher_units`), 1 for the published three, so that teachers of all sizes say numbers
    of one size.

    Cost: 20,000 permutations of 20 numbers, about 0.1 s; the same for every activation and ρ.
    """
    numbers, generator = np.random.RandomState(seed), torch.Generator().manual_seed(seed)
    x, test_x = _inputs(numbers, EXAMPLES), _inputs(numbers, TEST_EXAMPLES)
    teacher = _normal_network(teacher_units, generator)
    rows = teacher.weight[:, :-1]
    rows = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    unit = torch.cat([rows, teacher.weight[:, -1:]], 1)
    size = math.sqrt(TEACHER_UNITS / teacher_units)
    teacher = Network(unit, teacher.outer.sign() * size, teacher.offset)
    numbers, generator = np.random.RandomState(seed), torch.Generator().manual_seed(seed)
    scale = activation.initial_scale if initial_scale is None else initial_scale
    student = _normal_network(units, generator)
    return Draw(
        x=x,
        y=teacher.outputs(x[None], activation)[0],
        test_x=test_x,
        test_y=teacher.outputs(test_x[None], activation)[0],
        student=Network(student.weight * scale, student.outer * scale, student.offset * scale),
        order=torch.tensor(
            [int(numbers.choice(EXAMPLES, size=1, replace=False)[0]) for _ in range(steps)]
        ),
    )


def _inputs(numbers: np.random.RandomState, count: int) -> Tensor:
    drawn = numbers.multivariate_normal(np.zeros(INPUTS), np.eye(INPUTS), count)
    x = torch.from_numpy(drawn.astype(np.float32))
    norm: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x / norm


def _normal_network(units: int, generator: torch.Generator) -> Network:
    for shape in ((units, INPUTS), (units,), (1, units), (1,)):  # what two linear layers would use
        torch.empty(shape).uniform_(generator=generator)
    weight = torch.randn(units, INPUTS, generator=generator)
    outer = torch.randn(1, units, generator=generator)
    bias = torch.randn(units, generator=generator)
    offset = torch.randn(1, generator=generator)
    return Network(torch.cat([weight.T, bias[None]])[None], outer, offset)
