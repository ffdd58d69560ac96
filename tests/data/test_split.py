"""Stratified choice, against its own definition."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowland.core.errors import InputError
from lowland.data.split import hold_out, stratified

LABELS = st.lists(st.sampled_from([0, 1, 2, 7]), min_size=1, max_size=40)


def slow_stratified(labels: list[int], count: int) -> list[int]:
    """The same, with exact fractions and one row at a time."""
    keys = []
    for row, label in enumerate(labels):
        place = labels[:row].count(label)
        keys.append((Fraction(place, labels.count(label)), row))
    return sorted(row for _, row in sorted(keys)[:count])


@settings(deadline=None, max_examples=150)
@given(LABELS, st.data())
def test_stratified_is_its_definition(labels: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(len(set(labels)), len(labels)))
    rows = stratified(torch.tensor(labels), count, name="x").tolist()
    assert rows == slow_stratified(labels, count)
    assert {labels[row] for row in rows} == set(labels)


def test_balanced_classes_in_turn_give_the_first_rows() -> None:
    assert stratified(torch.arange(30) % 3, 12, name="x").tolist() == list(range(12))


def test_a_file_sorted_by_class_keeps_its_shares() -> None:
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    rows = stratified(labels, 20, name="x")
    assert labels[rows].bincount().tolist() == [12, 6, 2]
    assert rows.tolist() == [*range(12), *range(60, 66), 90, 91]


def test_too_few_rows_for_the_classes() -> None:
    with pytest.raises(InputError, match=r"^x: 2 examples cannot cover 3 classes: take more$"):
        stratified(torch.tensor([0, 1, 2, 0]), 2, name="x")


@settings(deadline=None, max_examples=100)
@given(LABELS, st.floats(0, 0.5), st.integers(0, 3))
def test_hold_out_is_a_partition_that_keeps_every_class(
    labels: list[int], share: float, seed: int
) -> None:
    expected = max(1, round(share * len(labels)))
    if len(labels) - expected < len(set(labels)):
        with pytest.raises(InputError, match=r"^x: .*too few to hold out"):
            hold_out(torch.tensor(labels), share, seed=seed, name="x")
        return
    kept, held = hold_out(torch.tensor(labels), share, seed=seed, name="x")
    assert sorted(kept.tolist() + held.tolist()) == list(range(len(labels)))
    assert kept.tolist() == sorted(kept.tolist())
    assert held.tolist() == sorted(held.tolist())
    assert len(held) == expected
    assert {labels[row] for row in kept} == set(labels)


def test_hold_out_is_stratified_and_random() -> None:
    labels = torch.tensor([0] * 80 + [1] * 20)
    _, held = hold_out(labels, 0.25, seed=0, name="x")
    assert labels[held].bincount().tolist() == [20, 5]
    assert held.tolist() != hold_out(labels, 0.25, seed=1, name="x")[1].tolist()
    assert held.tolist() == hold_out(labels, 0.25, seed=0, name="x")[1].tolist()


def test_no_rows_at_all() -> None:
    with pytest.raises(InputError, match="0 training images are too few"):
        hold_out(torch.tensor([], dtype=torch.int64), 0.1, seed=0, name="x")
