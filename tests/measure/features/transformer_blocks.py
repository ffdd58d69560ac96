"""Small transformer blocks in the shapes in which libraries write them, each with its own sums.

Every block keeps, in `seen`, the tensors that its streams should be, as they were computed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH = 8
TOKENS = 5


class Attention(nn.Module):
    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.proj(functional.scaled_dot_product_attention(q, k, v))


class Mlp(nn.Module):
    def __init__(self, width: int = WIDTH, hidden: int = 3 * WIDTH) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.drop1 = nn.Dropout(0.5)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.drop1(self.act(self.fc1(x))))


class LayerScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.randn(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Noted(nn.Module):
    """Keeps what it is told to be its streams."""

    def note(self, **streams: Tensor) -> None:
        self.seen = {name: value.clone() for name, value in streams.items()}


class TimmBlock(Noted):
    """Pre-norm, LayerScale and drop path as modules of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn, self.mlp = Attention(), Mlp()
        self.ls1, self.ls2 = LayerScale(), LayerScale()
        self.drop_path1, self.drop_path2 = nn.Identity(), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        a = self.drop_path1(self.ls1(self.attn(self.norm1(x))))
        between = x + a
        m = self.drop_path2(self.ls2(self.mlp(self.norm2(between))))
        y = between + m
        self.note(x=x, a=a, between=between, m=m, y=y)
        return y


class InPlaceBlock(Noted):
    """The stream is one piece of memory throughout, and one module scales both branches."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention, self.mlp = Attention(), Mlp()
        self.scale = LayerScale()

    def forward(self, x: Tensor) -> Tensor:
        x0 = x.clone()
        a = self.scale(self.attention(self.norm1(x)))
        x += a
        between = x.clone()
        m = self.scale(self.mlp(self.norm2(x)))
        x += m
        self.note(x=x0, a=a, between=between, m=m, y=x)
        return x


class ScaledBlock(Noted):
    """What is added is no module's output: the branches are scaled by a parameter of the block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention, self.mlp = Attention(), Mlp()
        self.scale = nn.Parameter(torch.randn(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        between = x + self.scale * self.attention(self.norm1(x))
        y = between + self.scale * self.mlp(self.norm2(between))
        self.note(x=x, a=between - x, between=between, m=y - between, y=y)
        return y


class SandwichBlock(Noted):
    """Norms before and after each branch; those after it are given the branch, not the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.norm_of_attention, self.norm_of_mlp = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention, self.mlp = Attention(), Mlp()
        self.scale1, self.scale2 = LayerScale(), LayerScale()

    def forward(self, x: Tensor) -> Tensor:
        a = self.norm_of_attention(self.scale1(self.attention(self.norm1(x))))
        between = x + a
        m = self.norm_of_mlp(self.scale2(self.mlp(self.norm2(between))))
        y = between + m
        self.note(x=x, a=a, between=between, m=m, y=y)
        return y


class PostNormBlock(Noted):
    """Norms after the sums."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention, self.mlp = Attention(), Mlp()

    def forward(self, x: Tensor) -> Tensor:
        a = self.attention(x)
        between = self.norm1(x + a)
        m = self.mlp(between)
        y = self.norm2(between + m)
        self.note(x=x, a=a, between=between, m=m, y=y)
        return y


class MixerBlock(Noted):
    """An MLP over tokens in the place of attention; returns a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.token_mixing = Mlp(TOKENS, 11)
        self.channel_mixing = Mlp()

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        a = self.token_mixing(self.norm1(x).transpose(1, 2).contiguous()).transpose(1, 2)
        a = a.contiguous()
        between = x + a
        m = self.channel_mixing(self.norm2(between))
        y = between + m
        self.note(x=x, a=between - x, between=between, m=m, y=y)
        return y, None


class PostNormMixerBlock(Noted):
    """Norms after the sums, and token mixing that is given a view of the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.token_mixing = Mlp(TOKENS, 11)
        self.channel_mixing = Mlp()

    def forward(self, x: Tensor) -> Tensor:
        total = x + self.token_mixing(x.transpose(1, 2)).transpose(1, 2)
        between = self.norm1(total)
        m = self.channel_mixing(between)
        y = self.norm2(between + m)
        self.note(x=x, a=total - x, between=between, m=m, y=y)
        return y


class Parallel(nn.Module):
    """Attention and MLP side by side: no stream between them."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.attention, self.mlp = Attention(), Mlp()

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        return x + self.attention(h) + self.mlp(h)


class FunctionalNorm(nn.Module):
    """Normalised by a function, so that the MLP is given something new that is not the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.mlp = Attention(), Mlp()

    def forward(self, x: Tensor) -> Tensor:
        between = x + self.attention(functional.layer_norm(x, (WIDTH,)))
        return between + self.mlp(functional.layer_norm(between, (WIDTH,)))


class OnlyAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.attention = Attention()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(self.norm(x))


class Tower(nn.Module):
    """Two blocks on a class token and patches of an "image" (b, tokens - 1, width)."""

    def __init__(self, block: type[nn.Module], dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(WIDTH, WIDTH)
        self.token = nn.Parameter(torch.randn(WIDTH))
        self.blocks = nn.ModuleList([block(), block()])
        self.head = nn.Linear(WIDTH, 3)
        self.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), 1, -1), self.embed(x)], dim=1)
        for block in self.blocks:
            x = block(x)
            x = x[0] if isinstance(x, tuple) else x
        return self.head(x[:, 0])


def images(n: int = 7, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, TOKENS - 1, WIDTH, generator=generator).to(dtype)
