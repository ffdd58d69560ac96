"""The networks that second derivatives are timed on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from lowland.data.digits import read_digits
from lowland.models import create as create_model

Data = list[tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor], Tensor]


class Block(nn.Module):
    """Causal attention and an MLP, both after a LayerNorm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        examples, tokens, width = x.shape
        parts = self.mix(self.norm1(x)).chunk(3, -1)
        q, k, v = (p.view(examples, tokens, self.heads, -1).transpose(1, 2) for p in parts)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(examples, tokens, width))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class Language(nn.Module):
    """A small GPT: tied embeddings, learned positions."""

    def __init__(self, words: int, width: int, layers: int, tokens: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.places = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.body = nn.Sequential(*[Block(width, 4) for _ in range(layers)], nn.LayerNorm(width))
        self.head = nn.Linear(width, words, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.body(self.embed(tokens) + self.places)).flatten(0, 1)


def language_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets.flatten())


def resnet(quick: bool) -> tuple[nn.Module, Data, Loss]:
    width = 16 if quick else 64
    model = create_model("resnet18", shape=(3, 32, 32), classes=10, width=width)
    return model, [(torch.randn(4, 3, 32, 32), torch.randint(0, 10, (4,)))], nn.CrossEntropyLoss()


def mlp(quick: bool) -> tuple[nn.Module, Data, Loss]:
    layers = [nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)]
    data = [(torch.randn(128, 784), torch.randint(0, 10, (128,)))]
    return nn.Sequential(*layers), data, nn.CrossEntropyLoss()


def language(quick: bool) -> tuple[nn.Module, Data, Loss]:
    model = Language(512, 128, 2 if quick else 4, 64)
    tokens = torch.randint(0, 512, (4, 65))
    return model, [(tokens[:, :-1], tokens[:, 1:])], language_loss


NETWORKS = {"ResNet-18, CIFAR size": resnet, "MLP": mlp, "small GPT": language}


def weights_of(model: nn.Module) -> str:
    return f"{sum(p.numel() for p in model.parameters()) / 1e6:.3f}M weights"


def trained(quick: bool) -> tuple[nn.Module, Data]:
    """An MLP that has learned the digits to the end of its first descent, and its training data."""
    train = read_digits("digits", seed=0).train
    x, y = train.images.flatten(1).float() / 16, train.labels
    torch.manual_seed(0)
    width = 32 if quick else 128
    layers = [nn.Linear(64, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh()]
    model = nn.Sequential(*layers, nn.Linear(width, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(100):
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model.eval(), list(zip(x.split(256), y.split(256), strict=True))
