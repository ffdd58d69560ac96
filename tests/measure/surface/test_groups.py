"""Groups of m examples: exact, in order, however the data are cut."""

from __future__ import annotations

import pytest
import torch
from measure_cases import batches, small_net
from torch.utils.data import DataLoader, TensorDataset

from lowland.core.errors import InputError
from lowland.measure.surface.groups import groups


def numbered(*sizes: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    x = torch.arange(sum(sizes))
    return list(zip(x.float().split(list(sizes)), x.split(list(sizes)), strict=True))


def found(pairs, m, examples=None) -> list[list[int]]:
    model = small_net()
    return [
        [i for _, y in group for i in y.tolist()] for group in groups(model, pairs, m, examples)
    ]


@pytest.mark.parametrize("sizes", [(7,), (2, 5), (1,) * 7, (3, 3, 1), (6, 1)])
@pytest.mark.parametrize("m", [1, 2, 3, 5, 7, 9])
def test_every_group_has_m_examples_but_the_last(sizes, m) -> None:
    expected = [list(range(i, min(i + m, 7))) for i in range(0, 7, m)]
    assert found(numbered(*sizes), m) == expected


def test_batches_as_they_come_and_all_together() -> None:
    assert found(numbered(3, 3, 1), "batch") == [[0, 1, 2], [3, 4, 5], [6]]
    assert found(numbered(3, 3, 1), None) == [list(range(7))]


@pytest.mark.parametrize(
    ("m", "expected"),
    [
        (2, [[0, 1], [2, 3]]),
        ("batch", [[0, 1, 2], [3]]),
        (None, [[0, 1, 2, 3]]),
    ],
)
def test_the_first_examples_alone(m, expected) -> None:
    assert found(numbered(3, 3, 1), m, examples=4) == expected
    assert found(numbered(3, 3, 1), m, examples=100) == found(numbered(3, 3, 1), m)


def test_a_group_can_be_read_again() -> None:
    for m in (2, "batch", None):
        for group in groups(small_net(), numbered(3, 2), m):
            assert len(list(group)) == len(list(group)) > 0


def test_inputs_of_several_tensors_are_divided() -> None:
    x = torch.arange(4.0)
    pairs = [({"a": x, "b": (x, x * 2)}, torch.arange(4))]
    first, second = groups(small_net(), pairs, 3)
    inputs, targets = second[0]
    assert inputs["a"].tolist() == [3.0]
    assert inputs["b"][1].tolist() == [6.0]
    assert targets.tolist() == [3]
    assert len(first[0][1]) == 3


BAD = [
    (0, None, "m: 0; give a whole number from 1 on, 'batch', or None for all"),
    (2.5, None, "m: 2.5; give"),
    (True, None, "m: True; give"),
    ("all", None, "m: 'all'; give"),
    (2, 0, "examples: 0; give a whole number from 1 on, or None for all"),
]


@pytest.mark.parametrize(("m", "examples", "message"), BAD)
def test_bad_sizes(m, examples, message) -> None:
    with pytest.raises(InputError) as caught:
        found(numbered(3), m, examples)
    assert str(caught.value).startswith(message)


def test_what_cannot_be_divided_or_read_twice_is_refused() -> None:
    with pytest.raises(InputError, match="inputs str cannot be divided among 3 examples"):
        found([("text", torch.arange(3))], 2)
    assert found([("text", torch.arange(3))], 3) == [[0, 1, 2]]
    with pytest.raises(InputError, match="iterator can be read only once"):
        found(iter(numbered(3)), None)
    loader = DataLoader(TensorDataset(*batches(size=10)[0]), shuffle=True)
    with pytest.raises(InputError, match="give it shuffle=False"):
        found(loader, None)
