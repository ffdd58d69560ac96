"""A small residual network without normalisation, which trains in stacks."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn.functional import relu


class Block(nn.Module):
    """x -> relu(shortcut(x) + conv2(relu(conv1(x)))), with conv2 zero at the start.

    So each block starts as its shortcut, and no normalisation is needed to keep the sizes of the
    outputs. The shortcut is x itself, or a 1x1 convolution where the shape changes.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, outputs, stride=stride)
        self.conv2 = _conv(outputs, outputs)
        nn.init.zeros_(self.conv2.weight)
        reshapes = stride != 1 or inputs != outputs
        self.shortcut = _conv(inputs, outputs, size=1, stride=stride) if reshapes else None

    def forward(self, x: Tensor) -> Tensor:
        skipped = x if self.shortcut is None else self.shortcut(x)
        return relu(skipped + self.conv2(relu(self.conv1(x))))


class MeanPosition(nn.Module):
    """(b, c, h, w) -> (b, c), the mean over positions; `nn.AdaptiveAvgPool2d` is slow in stacks."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class SmallResidual(nn.Sequential):
    """Residual network of two blocks: 3x3 convolutions, ReLU, biases, no BatchNorm.

    The children are `stem` (stride 2), `block1` (w channels), `block2` (2w channels, stride 2),
    `pool` (mean over positions) and `head` (logits). Kernels are Kaiming-normal.

    Args:
        channels: input channels.
        classes: number of logits.
        width: w.
    """

    def __init__(self, channels: int, classes: int, *, width: int) -> None:
        head = nn.Linear(2 * width, classes)
        nn.init.zeros_(head.bias)
        super().__init__(
            OrderedDict(
                stem=nn.Sequential(_conv(channels, width, stride=2), nn.ReLU()),
                block1=Block(width, width, 1),
                block2=Block(width, 2 * width, 2),
                pool=MeanPosition(),
                head=head,
            )
        )


def _conv(inputs: int, outputs: int, *, size: int = 3, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv
