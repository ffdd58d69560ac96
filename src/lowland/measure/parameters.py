"""Which parameters an instrument looks at, their gradients, and moving them for a while."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lowland.core.errors import InputError, unknown
from lowland.measure.blocks import named_blocks


def chosen_parameters(
    model: nn.Module, glob: str | None = None, *, frozen: bool = False
) -> dict[str, nn.Parameter]:
    """The parameters that require gradients and that `glob` matches, by name, in the model's order.

    Shared parameters come once, under their first name.

    Args:
        model: the network.
        glob: over names of parameters and of modules, where a module stands for all that is in
            it: ``block1``, ``block*``, ``*.bias``; commas separate several. None: all parameters.
        frozen: take those too that do not require gradients.

    Raises:
        InputError: nothing matches (the nearest name is given), what matches is frozen, or there
            are no parameters at all.
    """
    named = {n.replace("_orig_mod.", ""): p for n, p in model.named_parameters()}
    if not named:
        raise InputError(f"{type(model).__name__} has no parameters: give the trained network")
    chosen = named if glob is None else _matching(model, named, glob)
    if frozen:
        return chosen
    free = {name: p for name, p in chosen.items() if p.requires_grad}
    if not free:
        what = type(model).__name__ if glob is None else repr(glob)
        raise InputError(
            f"{what} has no parameters that require gradients: call model.requires_grad_() first"
        )
    return free


def _matching(
    model: nn.Module, named: dict[str, nn.Parameter], glob: str
) -> dict[str, nn.Parameter]:
    blocks = named_blocks(model)
    chosen: set[int] = set()
    for pattern in (part.strip() for part in glob.split(",")):
        found = [p for name, p in named.items() if fnmatch.fnmatchcase(name, pattern)]
        for name, module in blocks.items():
            if fnmatch.fnmatchcase(name, pattern) and name.count(".") == pattern.count("."):
                found += module.parameters()
        if not found:
            raise unknown("parameter or module", pattern, [*named, *blocks])
        chosen.update(map(id, found))
    return {name: p for name, p in named.items() if id(p) in chosen}


def gradients_of(loss: Tensor, weights: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """∂L/∂w, without touching `.grad`; None for weights that the loss does not depend on."""
    if not loss.requires_grad:
        raise InputError(
            "loss_fn: the loss does not depend on the weights; return a tensor computed from the "
            "model's outputs, not detached"
        )
    return torch.autograd.grad(loss, list(weights), allow_unused=True)


@contextmanager
def dense_gradients(model: nn.Module) -> Iterator[None]:
    """Inside, embeddings made with ``sparse=True`` have gradients that norms can be taken of."""
    kinds = (nn.Embedding, nn.EmbeddingBag)
    sparse = [m for m in model.modules() if isinstance(m, kinds) and m.sparse]
    for module in sparse:
        module.sparse = False
    try:
        yield
    finally:
        for module in sparse:
            module.sparse = True


@contextmanager
def moved(
    weights: Sequence[Tensor], direction: Sequence[Tensor | None], length: float
) -> Iterator[None]:
    """Inside, the weights are w + length·direction, in their own memory; after, exactly w."""
    home = [w.detach().clone() for w in weights]
    try:
        for weight, step in zip(weights, direction, strict=True):
            if step is not None:
                weight.data.add_(step, alpha=length)
        yield
    finally:
        for weight, values in zip(weights, home, strict=True):
            weight.data.copy_(values)
