"""Residual networks for small images, pre- and post-activation."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import relu

# No in-place operations here: a forward hook may hold on to any output.


class PreActBlock(nn.Module):
    """x -> shortcut + conv2(relu(bn2(conv1(a)))), with a = relu(bn1(x)).

    The shortcut is x itself, or, where the shape changes, a 1x1 convolution of a (not of x),
    without BatchNorm.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = _conv3x3(inputs, outputs, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv3x3(outputs, outputs)
        reshapes = stride != 1 or inputs != outputs
        self.shortcut = _conv1x1(inputs, outputs, stride) if reshapes else None

    def forward(self, x: Tensor) -> Tensor:
        active = relu(self.bn1(x))
        skipped = x if self.shortcut is None else self.shortcut(active)
        out: Tensor = skipped + self.conv2(relu(self.bn2(self.conv1(active))))
        return out


class PostActBlock(nn.Module):
    """x -> relu(shortcut + bn2(conv2(relu(bn1(conv1(x)))))).

    The shortcut is x itself, or, where the shape changes, BatchNorm of a 1x1 convolution of x.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            convolution = _conv1x1(inputs, outputs, stride)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        change = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        return relu(self.shortcut(x) + change)


class PreActResNet(nn.Sequential):
    """Pre-activation residual network.

    The children are, in order: `stem` (3x3 convolution, stride 1, no max pool); `block1`,
    `block2`, ... (superblocks; each output is the raw residual stream, before any BatchNorm or
    ReLU); `final` (BatchNorm and ReLU of the last superblock); `pool` (its mean over positions,
    flat); `head` (logits).

    Args:
        channels: input channels.
        classes: number of logits.
        widths: channels of each superblock; the first has stride 1, the others halve the image.
        depth: blocks per superblock.
        pooled: height and width of what `pool` leaves; 1 is the mean over all positions.

    Source: K. He et al., Identity mappings in deep residual networks, 2016.
    """

    def __init__(
        self, channels: int, classes: int, *, widths: Sequence[int], depth: int, pooled: int = 1
    ) -> None:
        super().__init__(
            OrderedDict(
                stem=_conv3x3(channels, widths[0]),
                **_superblocks(PreActBlock, widths, depth),
                final=nn.Sequential(nn.BatchNorm2d(widths[-1]), nn.ReLU()),
                pool=nn.Sequential(nn.AdaptiveAvgPool2d(pooled), nn.Flatten()),
                head=nn.Linear(widths[-1] * pooled**2, classes),
            )
        )


class PostActResNet(nn.Sequential):
    """Residual network with a ReLU after every sum.

    The children are, in order: `stem` (3x3 convolution, stride 1, no max pool, BatchNorm, ReLU);
    `block1`, `block2`, ... (superblocks; every output is after its ReLU); `pool` (mean over
    positions, flat); `head` (logits). The arguments are those of `PreActResNet`.

    Source: K. He et al., Deep residual learning for image recognition, 2016.
    """

    def __init__(self, channels: int, classes: int, *, widths: Sequence[int], depth: int) -> None:
        w = widths[0]
        super().__init__(
            OrderedDict(
                stem=nn.Sequential(_conv3x3(channels, w), nn.BatchNorm2d(w), nn.ReLU()),
                **_superblocks(PostActBlock, widths, depth),
                pool=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
                head=nn.Linear(widths[-1], classes),
            )
        )


def _superblocks(
    block: type[PreActBlock] | type[PostActBlock], widths: Sequence[int], depth: int
) -> dict[str, nn.Module]:
    """`depth` blocks for each width, named block1, block2, ...; all but the first halve."""
    parts: dict[str, nn.Module] = {}
    inputs = widths[0]
    for number, outputs in enumerate(widths, start=1):
        first = block(inputs, outputs, stride=1 if number == 1 else 2)
        rest = (block(outputs, outputs, stride=1) for _ in range(depth - 1))
        parts[f"block{number}"] = nn.Sequential(first, *rest)
        inputs = outputs
    return parts


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


def _conv1x1(inputs: int, outputs: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
