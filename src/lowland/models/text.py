"""A small transformer that reads texts."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from lowland.core.errors import InputError, unknown
from lowland.models.tokens import layer_norm
from lowland.models.vit import EncoderBlock

POOLS = {
    "first": "the first token",
    "mean": "the mean over the tokens of the text",
    "positions": "the mean over all positions, padding included",
}
"""How the vectors of a text's tokens become one."""


def pooled(tokens: Tensor, present: Tensor, pool: str) -> Tensor:
    """Vectors of tokens (b, t, d) -> of texts (b, d).

    Args:
        tokens: one vector for each position.
        present: (b, t), whether there is a token; the rest is padding.
        pool: one of `POOLS`. "positions" is what the released experiments of arXiv 2305.16292
            compute, where the paper says "first".
    """
    if pool not in POOLS:
        raise unknown("pool", pool, POOLS)
    if pool == "first":
        return tokens[:, 0]
    if pool == "positions":
        return tokens.mean(1)
    weights = present.to(tokens.dtype)[..., None]
    return (tokens * weights).sum(1) / weights.sum(1).clamp(min=1)


class TextEncoder(nn.Module):
    """Transformer over tokens: no token looks at padding; LayerNorm at the end, then a pool.

    Blocks are those of `lowland.models.ViT`, before-norm with GELU.

    Args:
        vocabulary: number of tokens.
        length: the most tokens of a text.
        width: size d of a token's vector.
        depth: number of blocks.
        heads: attention heads; they divide `width`.
        pool: one of `POOLS`.

    Cost: O(t·d² + t²·d) per block and text of t tokens.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        length: int,
        width: int,
        depth: int,
        heads: int,
        pool: str = "first",
    ) -> None:
        super().__init__()
        if width % heads:
            raise InputError(f"text width {width} has {heads} heads: use a multiple")
        if pool not in POOLS:
            raise unknown("pool", pool, POOLS)
        self.pool = pool
        self.width = width
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.empty(1, length, width).normal_(std=0.02))
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        for number in range(1, depth + 1):
            self.add_module(f"block{number}", TextBlock(width, heads))
        self.depth = depth
        self.norm = layer_norm(width)

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        """Texts as vectors (b, d), from tokens (b, t) and which of them are there (b, t)."""
        return pooled(self.states(tokens, present), present, self.pool)

    def states(self, tokens: Tensor, present: Tensor) -> Tensor:
        """A vector for each token, (b, t, d)."""
        x = self.embedding(tokens) + self.positions[:, : tokens.shape[1]]
        mask = present[:, None, None]
        for number in range(1, self.depth + 1):
            x = self.get_submodule(f"block{number}")(x, mask)
        states: Tensor = self.norm(x)
        return states


class TextBlock(EncoderBlock):
    """An `EncoderBlock` whose attention looks at what `mask` (b, 1, 1, t) allows."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads, 4 * width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        attention = self.attention
        y = self.norm1(x)
        q, k, v = (
            part(y).unflatten(2, (attention.heads, -1)).transpose(1, 2)
            for part in (attention.query, attention.key, attention.value)
        )
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + attention.out(mixed.transpose(1, 2).flatten(2))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out
