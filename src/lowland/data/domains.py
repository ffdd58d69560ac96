"""One domain left out for testing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lowland.core.errors import InputError, unknown
from lowland.core.seeds import generator
from lowland.data.annotations import strata
from lowland.data.images import ImageData, Split, assemble
from lowland.data.split import hold_out

HELD_OUT = 0.2
"""Share of the training domains that is validation, as in DomainBed."""


def leave_one_out(
    name: str,
    whole: Split,
    domains: Sequence[str],
    test: str,
    *,
    augmentation: str,
    seed: int,
    source: dict[str, Any],
) -> ImageData:
    """Test is one domain, all of it; train and validation are the others.

    A random 20% of the other domains is validation, each domain, class and joint value keeping
    its share. So a choice by validation error is one by error on the training domains (DomainBed's
    "training-domain validation", arXiv 2007.01434).

    Args:
        name: the data set, for messages.
        whole: all images, with an annotation ``domain``.
        domains: names of its values.
        test: the name of the domain to leave out.
        augmentation: as for `assemble`.
        seed: of what is held out.
        source: as for `assemble`.

    Raises:
        InputError: no such domain, fewer than two, or too few images in the others.
    """
    if len(domains) < 2:
        raise InputError(f"{name} has one domain, {domains[0]}: two or more are needed")
    left_out = number_of(test, f"domain of {name.partition(':')[0]}", domains)
    inside = whole.annotations["domain"] == left_out
    rest = whole.select((~inside).nonzero().flatten())
    kept, held = hold_out(strata(rest), HELD_OUT, seed=seed, name=name)
    return assemble(
        name,
        train=rest.select(kept),
        validation=rest.select(held),
        test=whole.select(inside.nonzero().flatten()),
        augmentation=augmentation,
        source={
            **source,
            "values": {**source.get("values", {}), "domain": list(domains)},
            "tested on": test,
            "rule": f"test is domain {test}; stratified: {HELD_OUT:.0%} of the others validation",
            "split_seed": seed,
        },
    )


def number_of(word: str, kind: str, words: Sequence[str]) -> int:
    """The place of a word among some.

    Raises:
        InputError: it is none of them; the nearest one is named.
    """
    if word not in words:
        raise unknown(kind, word, words)
    return list(words).index(word)


def dealt(labels: Tensor, domains: int, seed: int) -> Tensor:
    """A domain for each row, int64 (n,): shuffled, then dealt out within each class in turn.

    Domains get as many rows as each other, up to one, and of each class up to one.
    """
    shuffled = torch.randperm(len(labels), generator=generator("cpu", "domains", seed))
    order = shuffled[labels[shuffled].argsort(stable=True)]
    domain = torch.empty_like(labels)
    domain[order] = torch.arange(len(labels)) % domains
    return domain
