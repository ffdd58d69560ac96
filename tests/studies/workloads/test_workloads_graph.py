"""Graphs and graph convolutions: exact small cases, the dense formula, and what is refused."""

from __future__ import annotations

import pytest
import torch

from lowland.core.errors import InputError
from lowland.studies.workloads.graph import (
    MOST_NODES,
    GraphNetwork,
    Neighbourhood,
    convolve,
    neighbour_graph,
    normalised,
)


def test_neighbours_on_a_line() -> None:
    """Of 0, 1, 3, 7 each has one nearest; 1 is nearest to 0 and to 3, 3 to 7."""
    points = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    wanted = torch.zeros(4, 4, dtype=torch.bool)
    for i, j in ((0, 1), (1, 2), (2, 3)):
        wanted[i, j] = wanted[j, i] = True
    assert torch.equal(neighbour_graph(points, 1), wanted)
    assert neighbour_graph(points, 3).sum() == 12  # everyone with everyone, no one with itself


def test_neighbours_against_a_slow_reference() -> None:
    points = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    found = neighbour_graph(points, 3)
    wanted = torch.zeros(30, 30, dtype=torch.bool)
    for i in range(30):
        order = sorted((float((points[i] - points[j]).norm()), j) for j in range(30) if j != i)
        for _, j in order[:3]:
            wanted[i, j] = wanted[j, i] = True
    assert torch.equal(found, wanted)
    assert bool((found.sum(1) >= 3).all())


def test_equal_points_are_neighbours_and_not_their_own() -> None:
    found = neighbour_graph(torch.zeros(4, 2), 2)
    assert not found.diagonal().any()
    assert torch.equal(found, found.mT)


def test_the_matrix_of_a_path_by_hand() -> None:
    """Degrees with self-loops are 2, 3, 2."""
    path = torch.tensor([[0, 1, 0], [1, 0, 1], [0, 1, 0]], dtype=torch.float64)
    six = 6**-0.5
    wanted = torch.tensor([[1 / 2, six, 0], [six, 1 / 3, six], [0, six, 1 / 2]])
    torch.testing.assert_close(normalised(path), wanted.double())


def test_properties_of_the_matrix() -> None:
    """Symmetric; eigenvalues in (-1, 1]; √degree is kept."""
    graph = neighbour_graph(torch.randn(40, 3, generator=torch.Generator().manual_seed(1)), 4)
    a_hat = normalised(graph.double())
    torch.testing.assert_close(a_hat, a_hat.mT)
    values = torch.linalg.eigvalsh(a_hat)
    assert values[-1].item() == pytest.approx(1)
    assert values[0].item() > -1
    root = (graph.sum(1) + 1.0).double().sqrt()
    torch.testing.assert_close(a_hat @ root, root)


def test_a_node_without_neighbours_sees_itself_alone() -> None:
    graph = torch.tensor([[0.0, 1, 0], [1, 0, 0], [0, 0, 0]])
    a_hat = normalised(graph)
    assert a_hat[2].tolist() == [0, 0, 1]
    near = Neighbourhood.of(a_hat, torch.eye(3), torch.tensor([2]))
    assert near.mixing.shape == (1, 1)
    net = GraphNetwork(near, 2, width=4)
    wanted = net.first[2].relu() @ net.second
    torch.testing.assert_close(net(torch.tensor([0]))[0], wanted)


def test_the_network_is_the_formula_on_the_whole_graph() -> None:
    draws = torch.Generator().manual_seed(2)
    points = torch.randn(50, 6, generator=draws)
    a_hat = normalised(neighbour_graph(points, 3))
    asked = torch.tensor([4, 17, 40])
    near = Neighbourhood.of(a_hat, points, asked)
    assert len(near.smoothed) < 50
    net = GraphNetwork(near, 3, width=5)
    dense = convolve(a_hat, convolve(a_hat, points, net.first).relu(), net.second)
    places = torch.tensor([2, 0, 0])
    torch.testing.assert_close(net(places), dense[asked[places]], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        dense, a_hat @ (a_hat @ points @ net.first).relu() @ net.second, rtol=1e-4, atol=1e-5
    )
    assert [name for name, _ in net.named_parameters()] == ["first", "second"]
    assert not list(net.buffers())


@pytest.mark.parametrize(
    ("n", "k", "said"),
    [
        (3, 3, "3 nodes cannot have 3 neighbours each: use 4 nodes"),
        (3, 0, "neighbours is 0: use 1 or more"),
        (MOST_NODES + 1, 2, "too large here"),
    ],
)
def test_graphs_that_cannot_be(n: int, k: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        neighbour_graph(torch.zeros(n, 1), k)


@pytest.mark.parametrize(
    ("matrix", "said"),
    [
        ([[0.0, 1.0]], "give a square matrix"),
        ([[0.0, 1.0], [0.0, 0.0]], "not symmetric"),
        ([[0.0, -1.0], [-1.0, 0.0]], "weights of 0 or more"),
        ([[1.0, 1.0], [1.0, 0.0]], "zeros on its diagonal"),
    ],
)
def test_matrices_that_are_no_graph(matrix: list[list[float]], said: str) -> None:
    with pytest.raises(InputError, match=said):
        normalised(torch.tensor(matrix))
