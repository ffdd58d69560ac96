"""Masks of a stack's kernels, against counts and scores computed one network at a time."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lowland.core.errors import InputError
from lowland.studies.overparam import random_masks, snip_masks
from lowland.studies.overparam.masks import kernels
from lowland.train.stack import Stack


def made(widths: tuple[int, ...] = (6, 8, 3), size: int = 3) -> Stack:
    torch.manual_seed(5)
    return Stack(
        [
            nn.Sequential(
                nn.Linear(widths[0], widths[1]), nn.ReLU(), nn.Linear(widths[1], widths[2])
            )
            for _ in range(size)
        ]
    )


def test_kernels_are_masked_and_biases_stay_dense() -> None:
    stack = made()
    assert kernels(stack) == ["0.weight", "2.weight"]
    assert set(random_masks(stack, 0.5, [0, 1, 2])) == {"0.weight", "2.weight"}
    x, y = torch.randn(9, 6), torch.randint(3, (9,))
    assert set(snip_masks(stack, 0.5, x, y)) == {"0.weight", "2.weight"}


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.8, 0.9])
def test_a_random_mask_keeps_exactly_its_share_of_every_kernel(sparsity: float) -> None:
    masks = random_masks(made(), sparsity, [0, 1, 0])
    for mask in masks.values():
        d = mask[0].numel()
        assert mask.flatten(1).sum(1).tolist() == [round((1 - sparsity) * d)] * 3
        assert set(mask.unique().tolist()) <= {0.0, 1.0}
        assert torch.equal(mask[0], mask[2]), "one seed, one mask"
        assert sparsity == 0 or not torch.equal(mask[0], mask[1])


def test_every_entry_of_a_random_mask_is_equally_likely() -> None:
    many = random_masks(made(size=400), 0.75, range(400))["2.weight"]
    share = many.mean(0)  # 24 entries, each kept with probability 1/4, s.e. 0.022
    assert (share - 0.25).abs().max() < 4 * 0.022


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.8])
def test_snip_keeps_the_largest_products_of_gradient_and_weight_over_all_kernels(
    sparsity: float,
) -> None:
    stack, x = made(), torch.randn(20, 6)
    y = torch.randint(3, (3, 20))
    masks = snip_masks(stack, sparsity, x, y)
    for k in range(3):
        net = stack.member(k)
        cross_entropy(net(x), y[k]).backward()
        weights = [p for name, p in net.named_parameters() if name.endswith("weight")]
        scores = torch.cat([(p.grad * p.detach()).abs().flatten() for p in weights])  # type: ignore[operator]
        mask = torch.cat([masks[name][k].flatten() for name in ("0.weight", "2.weight")]).bool()
        kept = round((1 - sparsity) * len(scores))
        assert int(mask.sum()) == kept
        if sparsity:
            assert scores[mask].min() >= scores[~mask].max()


def test_snip_looks_at_a_batch_of_each_network_where_it_has_one() -> None:
    stack, x, y = made(), torch.randn(3, 12, 6), torch.randint(3, (3, 12))
    own = snip_masks(stack, 0.6, x, y, shared=False)
    for k in range(3):
        alone = snip_masks(stack, 0.6, x[k], y[k])
        for name, mask in own.items():
            assert torch.equal(mask[k], alone[name][k])


def test_of_equal_scores_the_first_are_kept() -> None:
    stack = made()
    for p in stack.parameters.values():
        p.zero_()
    masks = snip_masks(stack, 0.3, torch.randn(5, 6), torch.randint(3, (5,)))
    kept = torch.cat([m.flatten(1) for m in masks.values()], dim=1)
    assert kept.tolist() == [[1.0] * 50 + [0.0] * 22] * 3  # the first kernel has 48
    with pytest.raises(InputError, match=r"75% leaves nothing of 2.weight"):
        snip_masks(stack, 0.75, torch.randn(5, 6), torch.randint(3, (5,)))


def test_a_width_that_cannot_be_masked_is_refused_in_one_line() -> None:
    narrow = made((6, 1, 3))
    with pytest.raises(InputError, match=r"95% leaves nothing of 0.weight: use a smaller"):
        random_masks(narrow, 0.95, [0, 1, 2])
    with pytest.raises(InputError, match=r"90% leaves nothing of 0.weight"):
        # the first kernel sees zeros, so that all scores there are 0
        snip_masks(narrow, 0.9, torch.zeros(4, 6), torch.randint(3, (4,)))
    for sparsity in (1.0, -0.1):
        with pytest.raises(InputError, match=r"sparsity must be in \[0, 1\)"):
            random_masks(narrow, sparsity, [0, 1, 2])
        with pytest.raises(InputError, match=r"sparsity must be in \[0, 1\)"):
            snip_masks(narrow, sparsity, torch.zeros(4, 6), torch.randint(3, (4,)))
