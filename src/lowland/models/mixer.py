"""MLP-Mixer."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from lowland.models.tokens import FeedForward, MeanToken, Patches, layer_norm


class MixerBlock(nn.Module):
    """x -> y + channels(norm2(y)) with y = x + tokens(norm1(x)ᵀ)ᵀ.

    `tokens` mixes along tokens, each channel alike; `channels` along channels, each token alike.
    """

    def __init__(self, tokens: int, width: int, hidden_tokens: int, hidden_channels: int) -> None:
        super().__init__()
        self.norm1 = layer_norm(width)
        self.tokens = FeedForward(tokens, hidden_tokens)
        self.norm2 = layer_norm(width)
        self.channels = FeedForward(width, hidden_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        out: Tensor = x + self.channels(self.norm2(x))
        return out


class Mixer(nn.Sequential):
    """MLP-Mixer.

    The children are, in order: `stem` (patches to tokens); `block1`, `block2`, ... (each output is
    the residual stream (b, t, d)); `norm` (the final LayerNorm); `pool` (its mean over tokens,
    (b, d)); `head` (logits). The number of tokens is built into the weights, so that a network
    takes images of one size.

    Args:
        channels: input channels.
        classes: number of logits.
        size: height and width of the images, a multiple of `patch`.
        patch: height and width of a patch.
        width: size d of a token.
        depth: number of blocks.
        hidden_tokens: width of the token-mixing layers; None for width/2.
        hidden_channels: width of the channel-mixing layers; None for 4·width.

    Cost: O(t·d·(hidden_tokens + hidden_channels)) per block and image, with t = (size/patch)².

    Source: I. Tolstikhin et al., MLP-Mixer: an all-MLP architecture for vision, 2021; sizes B and
    L, LayerNorm's epsilon and GELU as in the released Flax code (confidence: high).
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
        hidden_tokens: int | None = None,
        hidden_channels: int | None = None,
    ) -> None:
        tokens = (size // patch) ** 2
        mixing = (hidden_tokens or max(1, width // 2), hidden_channels or 4 * width)
        parts: OrderedDict[str, nn.Module] = OrderedDict(stem=Patches(channels, width, patch))
        for number in range(1, depth + 1):
            parts[f"block{number}"] = MixerBlock(tokens, width, *mixing)
        head = nn.Linear(width, classes)
        nn.init.zeros_(head.bias)
        super().__init__(OrderedDict(**parts, norm=layer_norm(width), pool=MeanToken(), head=head))
