"""Weights that move where autocast keeps casts of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lowland.core.autocast import own_precision
from lowland.core.restore import preserved


def test_a_forward_with_its_own_autocast_within_autocast_sees_weights_that_moved() -> None:
    """The inner one switches the cache on again, and would not clear it on leaving."""
    layer, x = nn.Linear(4, 3, bias=False), torch.ones(5, 4)

    @torch.autocast("cpu", torch.bfloat16)
    def forward() -> Tensor:
        out: Tensor = layer(x)
        return out.detach()

    with torch.autocast("cpu", torch.bfloat16):
        before = forward()
        with preserved(layer):
            for value in (0.0, 1.0):
                nn.init.constant_(layer.weight, value)
                assert torch.equal(forward(), torch.full((5, 3), 4 * value, dtype=torch.bfloat16))
                assert torch.equal(layer(x), forward())
        assert torch.equal(forward(), before)
        assert torch.is_autocast_cache_enabled()
        assert torch.autocast_increment_nesting() == 2
        torch.autocast_decrement_nesting()
    assert torch.autocast_increment_nesting() == 1
    torch.autocast_decrement_nesting()


def test_own_precision_where_there_is_no_autocast() -> None:
    with own_precision("meta"), own_precision("cpu"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        with own_precision("cpu"):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
