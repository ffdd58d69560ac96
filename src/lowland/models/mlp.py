"""A fully connected network."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


class MLP(nn.Sequential):
    """Flatten, two hidden layers of `width` ReLU units, linear head.

    The children are `flatten`, `block1` and `block2` (outputs after the ReLU), and `head`
    (logits).
    """

    def __init__(self, inputs: int, classes: int, *, width: int) -> None:
        super().__init__(
            OrderedDict(
                flatten=nn.Flatten(),
                block1=nn.Sequential(nn.Linear(inputs, width), nn.ReLU()),
                block2=nn.Sequential(nn.Linear(width, width), nn.ReLU()),
                head=nn.Linear(width, classes),
            )
        )
