"""Tiny language models, data, and the sharpness-aware loop written out by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

Batch = dict[str, Tensor]
LossOf = Callable[[nn.Module, Sequence[Batch]], Tensor]


def language_model(seed: int = 0, dropout: float = 0.0) -> nn.Module:
    """A GPT-2 of two layers, built from its configuration."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    config = GPT2Config(
        vocab_size=17, n_positions=8, n_embd=12, n_layer=2, n_head=2,
        bos_token_id=0, eos_token_id=0, use_cache=False, **rates,
    )  # fmt: skip
    model: nn.Module = GPT2LMHeadModel(config)
    return model


def sentences(n: int = 14) -> list[Batch]:
    """Token sequences; how many tokens count differs from one to the next."""
    generator = torch.Generator().manual_seed(5)
    made = []
    for i in range(n):
        tokens = torch.randint(0, 17, (8,), generator=generator)
        labels = tokens.clone()
        labels[: 1 + i % 4] = -100
        made.append({"input_ids": tokens, "labels": labels})
    return made


def stacked(batches: Sequence[Batch]) -> Batch:
    return {key: torch.stack([b[key] for b in batches]) for key in batches[0]}


def windows(data: Sequence[Any], batch: int, accumulation: int) -> list[list[Sequence[Any]]]:
    """The micro-batches of each optimizer step in one epoch; the last step may have fewer."""
    micro = [data[i : i + batch] for i in range(0, len(data), batch)]
    return [micro[i : i + accumulation] for i in range(0, len(micro), accumulation)]


def token_loss(model: nn.Module, examples: Sequence[Batch], smoothing: float = 0.0) -> Tensor:
    """The mean over all tokens that count, of all examples together."""
    batch = stacked(examples)
    logits = model(input_ids=batch["input_ids"]).logits[:, :-1].flatten(0, 1).float()
    labels = batch["labels"][:, 1:].flatten()
    return cross_entropy(logits, labels, ignore_index=-100, label_smoothing=smoothing)


def sam_by_hand(
    model: nn.Module,
    base: torch.optim.Optimizer,
    parts: Sequence[Callable[[], Tensor]],
    rho: float,
    clip: float | None = None,
) -> tuple[float, float]:
    """One step: for each part an ε of its own, u the sum of the gradients there.

    One part is SAM; several, whose losses add up to the mean, are m-SAM. Returns the loss at w and
    the one at w+ε.
    """
    params = [p for p in model.parameters() if p.requires_grad]
    u = [torch.zeros_like(p) for p in params]
    at_w = at_perturbed = 0.0
    for loss_of in parts:
        loss = loss_of()
        g = torch.autograd.grad(loss, params)
        scale = rho / torch.sqrt(sum((t.double() ** 2).sum() for t in g)).float()  # type: ignore[arg-type]
        with torch.no_grad():
            saved = [p.clone() for p in params]
            for p, t in zip(params, g, strict=True):
                p.add_(t * scale)
        perturbed = loss_of()
        for total, t in zip(u, torch.autograd.grad(perturbed, params), strict=True):
            total += t
        with torch.no_grad():
            for p, w in zip(params, saved, strict=True):
                p.copy_(w)
        at_w, at_perturbed = at_w + loss.item(), at_perturbed + perturbed.item()
    for p, t in zip(params, u, strict=True):
        p.grad = t
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(params, clip)
    base.step()
    base.zero_grad()
    return at_w, at_perturbed


def weights(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def farthest(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    """The largest difference between two lists of tensors of the same shapes."""
    return max(float((a - b).abs().max()) for a, b in zip(left, right, strict=True))


def same(left: Sequence[Tensor], right: Sequence[Tensor]) -> bool:
    """Bit for bit."""
    return len(left) == len(right) and all(map(torch.equal, left, right))


def twin(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model)
