"""The vision transformer (ViT)."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from lowland.models.tokens import FeedForward, FirstToken, Patches, layer_norm, start


class Attention(nn.Module):
    """Multi-head self-attention: softmax(q·kᵀ/√(d/heads))·v for each head, then a linear map.

    Not `nn.MultiheadAttention`, whose fast path in eval mode goes past the hooks of its children.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        start(self.query, self.key, self.value, self.out)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (self._split(part(x)) for part in (self.query, self.key, self.value))
        mixed = scaled_dot_product_attention(query, key, value)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out

    def _split(self, x: Tensor) -> Tensor:
        """(b, t, d) -> (b, heads, t, d/heads)."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class EncoderBlock(nn.Module):
    """x -> y + mlp(norm2(y)) with y = x + attention(norm1(x)).

    Its output is the residual stream. A hook on `norm2` sees y, the stream after attention, as its
    input; `attention` and `mlp` give what each branch adds.
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = layer_norm(width)
        self.attention = Attention(width, heads)
        self.norm2 = layer_norm(width)
        self.mlp = FeedForward(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Positions(nn.Module):
    """Tokens (b, t, d) -> (b, 1+t, d): a learned class token in front, learned positions on all."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, 1 + tokens, width).normal_(std=0.02))

    def forward(self, tokens: Tensor) -> Tensor:
        first = self.class_token.expand(len(tokens), -1, -1)
        return torch.cat([first, tokens], 1) + self.positions


class ViT(nn.Sequential):
    """Vision transformer.

    The children are, in order: `stem` (patches to tokens); `positions` (class token and position
    embeddings); `block1`, `block2`, ... (each output is the residual stream (b, 1+t, d), before any
    LayerNorm); `norm` (the final LayerNorm); `pool` (its class token, (b, d)); `representation`, if
    asked for (a linear layer and tanh, as checkpoints of ImageNet-21k have); `head` (logits).

    Args:
        channels: input channels.
        classes: number of logits.
        size: height and width of the images, a multiple of `patch`.
        patch: height and width of a patch.
        width: size d of a token.
        depth: number of blocks.
        heads: attention heads; they divide `width`.
        hidden: width of the feed-forward blocks; None for 4·width.
        representation: outputs of the layer before the head; None for no such layer.

    Cost: O(t·d² + t²·d) per block and image, with t = (size/patch)² + 1 tokens.

    Source: A. Dosovitskiy et al., An image is worth 16x16 words, 2021; LayerNorm's epsilon, GELU
    and the order of operations are those of the released Flax code (confidence: high, read there).
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        size: int,
        patch: int,
        width: int,
        depth: int,
        heads: int,
        hidden: int | None = None,
        representation: int | None = None,
    ) -> None:
        parts: OrderedDict[str, nn.Module] = OrderedDict(
            stem=Patches(channels, width, patch),
            positions=Positions((size // patch) ** 2, width),
        )
        for number in range(1, depth + 1):
            parts[f"block{number}"] = EncoderBlock(width, heads, hidden or 4 * width)
        parts["norm"] = layer_norm(width)
        parts["pool"] = FirstToken()
        if representation is not None:
            before = nn.Linear(width, representation)
            start(before)
            parts["representation"] = nn.Sequential(before, nn.Tanh())
        head = nn.Linear(representation or width, classes)
        nn.init.zeros_(head.bias)
        super().__init__(OrderedDict(**parts, head=head))
