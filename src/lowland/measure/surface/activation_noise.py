"""Sharpness under activation noise: how much losses rise when every intermediate result is off."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lowland.core.errors import InputError
from lowland.core.records import Measurement
from lowland.core.restore import preserved, preserved_randomness
from lowland.measure.blocks import eager, matching_blocks
from lowland.measure.evaluation import Batches, Loss, labelled, losses, outputs_of
from lowland.measure.surface.noisy_blocks import BlockNoise, intermediate_blocks


@dataclass(frozen=True, kw_only=True)
class ActivationNoiseSharpness(Measurement):
    """The mean rise of the losses; `uncertainty` is its standard error over examples, for the noise
    that was drawn.

    Attributes:
        sigma: σ, the standard deviation of the noise.
        draws: K.
        worst: whether the worst of the draws counts, or their mean.
        blocks: the modules whose outputs had noise.
        loss: mean loss without noise.
    """

    sigma: float
    draws: int
    worst: bool
    blocks: tuple[str, ...]
    loss: float


def activation_noise_sharpness(
    model: nn.Module,
    loss_fn: Loss,
    batches: Batches,
    *,
    sigma: float = 0.3,
    draws: int = 10,
    blocks: str | None = None,
    worst: bool = True,
    seed: int = 0,
) -> ActivationNoiseSharpness:
    """S = mean_i (max(max_k e_ki, e_i) − e_i): the rise of the losses under multiplicative noise.

    e_i is the loss of example i, and e_ki that in draw k = 1..K, in which every output a of the
    blocks is a·(1 + σz), z ~ N(0, 1), independent for every number, example, block, call of the
    block and draw. Eval mode.

    This is the measure of SAM-GP (arXiv 2405.06869), there of trees of genetic programming, with
    squared errors. "Every node but the roots" of a tree becomes every intermediate activation of a
    network; the head that makes the outputs has none, as there. Unlike there the network's inputs,
    the leaves, have no noise, and the last features, the roots, do: name `blocks` to leave them
    out. What a network computes outside of modules (a sum, ``torch.relu``) has no noise of its
    own, so compare networks that are written alike.

    The noise is a function of seed, draw, block and the number of the example in the data: it is
    the same however the data is divided into batches, for every K the first draws are those of a
    smaller K, and two models with blocks of the same names and shapes see the same noise. S with
    the worst of K is never below 0 and never falls with K.

    Args:
        model: called as ``model(inputs)``; left exactly as it was, random generators included.
        loss_fn: ``loss_fn(outputs, targets)``: losses (b,), one per example.
        batches: pairs (inputs, targets), moved to the model's device.
        sigma: σ >= 0.
        draws: K, at least 1.
        blocks: glob over the names of `model.named_modules()`, as for `capture`. None is every
            module that has no children or has parameters of its own, apart from the output layer,
            from whatever returns the model's outputs, and from modules that do nothing in eval
            mode (Identity, Flatten, Dropout).
        worst: False takes mean_k e_ki − e_i, which may be below 0.
        seed: of the noise.

    A block must return a tensor with a row per example, or a tuple that begins with one.

    Cost: 1 + K forward passes, and about twenty elementwise operations for every noised number; a
    copy of the weights. Source: the authors' code for σ, K and the formula; for networks the
    choice of blocks is ours.

    Raises:
        InputError: σ, K or seed make no sense, a loss that is not one per example, no examples, no
            such blocks, a block that never runs, or one whose output has no row per example.
    """
    start = time.perf_counter()
    _check(sigma, draws, seed)
    names = intermediate_blocks(model) if blocks is None else matching_blocks(model, blocks)
    noise = BlockNoise(names, sigma, seed, choose=blocks is None)
    rises: list[Tensor] = []
    before: list[Tensor] = []
    with preserved(model), torch.no_grad(), eager(model), noise.on(model):
        model.eval()
        for inputs, targets in labelled(model, batches):
            noise.next_batch(len(targets))
            evaluate = partial(_evaluate, model, loss_fn, noise, inputs, targets)
            clean, noised = _losses(evaluate, draws)
            before.append(clean)
            rises.append(_rise(clean, noised, worst))
    s = torch.cat(rises)
    return ActivationNoiseSharpness(
        name="activation_noise_sharpness",
        value=float(s.mean()),
        definition=(
            f"mean over examples of {'max(max_k e_k, e)' if worst else 'mean_k e_k'} - e, eval "
            f"mode; e_k with every output a of the blocks times 1 + {sigma:g} N(0, 1)"
        ),
        n=len(s),
        dtype=noise.dtype,
        seconds=time.perf_counter() - start,
        uncertainty=float(s.std()) / math.sqrt(len(s)) if len(s) > 1 else None,
        seed=seed,
        sigma=sigma,
        draws=draws,
        worst=worst,
        blocks=noise.blocks,
        loss=float(torch.cat(before).mean()),
    )


def _check(sigma: float, draws: int, seed: int) -> None:
    if not (math.isfinite(sigma) and sigma >= 0):
        raise InputError(f"sigma: {sigma!r} is not a deviation; give a finite number from 0 on")
    for name, value, least in (("draws", draws, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{name}: {value!r}; give a whole number from {least} on")


def _evaluate(
    model: nn.Module,
    loss_fn: Loss,
    noise: BlockNoise,
    inputs: Any,
    targets: Tensor,
    draw: int | None,
) -> Tensor:
    """The losses of a batch in one draw, or without noise; (b,), float64."""
    noise.draw = draw
    outputs = outputs_of(model, inputs)
    noise.look(outputs)
    return _each(losses(loss_fn, outputs, targets))


def _each(found: Tensor) -> Tensor:
    if found.ndim == 0:
        raise InputError(
            "loss_fn: returned the mean, and the worst draw is each example's own; return one loss "
            "per example (reduction='none')"
        )
    return found.detach().cpu().double()


def _losses(evaluate: Callable[[int | None], Tensor], draws: int) -> tuple[Tensor, Tensor]:
    """e (b,) and e_k (K, b); what the model draws by itself is the same in all passes."""
    with preserved_randomness():
        clean = evaluate(None)
    noised = []
    for draw in range(draws):
        last = draw == draws - 1
        with contextlib.nullcontext() if last else preserved_randomness():
            noised.append(evaluate(draw))
    return clean, torch.stack(noised)


def _rise(clean: Tensor, noised: Tensor, worst: bool) -> Tensor:
    if worst:
        return torch.maximum(noised.amax(0), clean) - clean
    return (noised - clean).mean(0)
