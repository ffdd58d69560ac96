"""From what a block returns to rows of features: which tokens, which positions of an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lowland.core.errors import InputError, unknown

Tokens = Literal[
    "flatten", "rows", "class", "last", "mean", "mean-without-class", "mean-with-padding"
]
TOKENS: tuple[Tokens, ...] = get_args(Tokens)

Spatial = Literal["flatten", "mean"]
SPATIAL: tuple[Spatial, ...] = get_args(Spatial)

MASK = "attention_mask"
"""Where inputs that are a mapping say which positions are tokens (1) and which padding (0)."""


@dataclass(frozen=True)
class Positions:
    """How outputs with positions become rows of features.

    Attributes:
        tokens: what of outputs (b, t, d), see `TOKENS` and `rows`.
        spatial: what of outputs (b, c, h, w): "flatten" gives c·h·w features per example, "mean"
            the mean over h and w, c features.
        channels_last: outputs with four dimensions are (b, h, w, c).
    """

    tokens: str = "flatten"
    spatial: str = "flatten"
    channels_last: bool = False

    def __post_init__(self) -> None:
        if self.tokens not in TOKENS:
            raise unknown("choice of tokens", self.tokens, TOKENS)
        if self.spatial not in SPATIAL:
            raise unknown("choice of spatial", self.spatial, SPATIAL)

    def rows(self, name: str, output: Tensor, mask: Tensor | None) -> Tensor:
        """The rows (b, ·) of a block's output on b examples, in memory of their own.

        Outputs (b, t, d) become, by `tokens`:

        - "flatten": (b, t·d), all positions side by side;
        - "rows": (b·t, d), each token a row, examples in order; padding left out;
        - "class": (b, d), the first token; "last": the last one that is not padding;
        - "mean": (b, d), the mean over tokens, padding left out;
        - "mean-without-class": the same without the first token;
        - "mean-with-padding": the mean over all positions, whatever they hold.

        What is padding, the mask (b, t) says; without one nothing is.

        Raises:
            InputError: a mask of another shape, or an example without tokens.
        """
        if output.ndim == 3 and self.tokens != "flatten":
            return self._of_tokens(name, output, mask)
        if output.ndim == 4 and self.spatial == "mean":
            return output.mean((1, 2) if self.channels_last else (2, 3))
        own = output.clone(memory_format=torch.contiguous_format)
        return own.flatten(1) if own.ndim > 1 else own[:, None]

    def applies(self, dimensions: set[int]) -> bool:
        """Whether what was asked for can be seen in outputs with so many dimensions."""
        wanted = {3} if self.tokens != "flatten" else set()
        if self.spatial != "flatten" or self.channels_last:
            wanted.add(4)
        return wanted <= dimensions

    def _of_tokens(self, name: str, output: Tensor, mask: Tensor | None) -> Tensor:
        if self.tokens == "mean-with-padding":
            return output.mean(1)
        mask = _checked(name, output, mask)
        if self.tokens == "class":
            if mask is not None and not bool(mask[:, 0].all()):
                raise InputError(
                    f"{MASK}: some first positions are padding, so that they are no class token; "
                    "pad on the right, or take tokens='last' or 'mean'"
                )
            return output[:, 0].clone()
        if self.tokens == "last":
            return _last(output, mask)
        if self.tokens == "rows":
            return output.flatten(0, 1).clone() if mask is None else output[mask]
        return _mean(name, output, mask, first=1 if self.tokens == "mean-without-class" else 0)


def mask_of(inputs: Any) -> Tensor | None:
    """The mask of tokens among inputs that are a mapping, as (b, t) of booleans."""
    mask = inputs.get(MASK) if isinstance(inputs, dict) else None
    return mask.bool() if isinstance(mask, Tensor) and mask.ndim == 2 else None


def _checked(name: str, output: Tensor, mask: Tensor | None) -> Tensor | None:
    if mask is None:
        return None
    if mask.shape != output.shape[:2]:
        raise InputError(
            f"{name!r} has {output.shape[1]} positions, {MASK} has {mask.shape[1]}: it cannot say "
            "which are padding; take tokens='mean-with-padding' or 'flatten'"
        )
    if not bool(mask.any(1).all()):
        raise InputError(f"{MASK}: an example is all padding; leave it out")
    return mask.to(output.device)


def _last(output: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return output[:, -1].clone()
    places = torch.arange(output.shape[1], device=output.device) * mask
    return output[torch.arange(len(output), device=output.device), places.argmax(1)]


def _mean(name: str, output: Tensor, mask: Tensor | None, *, first: int) -> Tensor:
    """Mean over positions from `first` on that are not padding."""
    if output.shape[1] <= first:
        raise InputError(f"{name!r} has no tokens beside the first; take tokens='class'")
    if mask is None:
        return output[:, first:].mean(1)
    kept = mask[:, first:, None]
    if not bool(kept.any(1).all()):
        raise InputError(f"{MASK}: an example has no tokens beside the first; leave it out")
    work = torch.promote_types(output.dtype, torch.float32)
    values = output[:, first:].to(work).masked_fill(~kept, 0.0)
    return (values.sum(1) / kept.sum(1)).to(output.dtype)
