"""A text encoder that learns from captions alone, by guessing words that are masked."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lowland.core.seeds import generator
from lowland.models import TextEncoder
from lowland.models.words import MASK, START

SHARE = 0.25
"""Share of the words that are masked; captions are short, so it is more than the usual 15 %."""

BATCH = 128
RATE = 2e-3


def guess_masked_words(
    encoder: TextEncoder, tokens: Tensor, present: Tensor, *, steps: int
) -> None:
    """Train `encoder` in place: of every masked word its number is predicted, with Adam.

    The logits of a position are the products of its vector with the embeddings of all words, plus
    a bias. Draws do not depend on a run's seed.

    Args:
        encoder: the encoder.
        tokens, present: of all texts, (m, t).
        steps: updates, each on `BATCH` texts drawn with replacement; the learning rate is
            `RATE`, down to 0 by a cosine.
    """
    bias = nn.Parameter(torch.zeros(len(encoder.embedding.weight)))
    optimizer = torch.optim.Adam([*encoder.parameters(), bias], lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    for step in range(steps):
        draws = generator("cpu", "masked words", step)
        rows = torch.randint(len(tokens), (BATCH,), generator=draws)
        words, there = tokens[rows], present[rows]
        hidden = torch.rand(words.shape, generator=draws) < SHARE
        hidden &= there & (words != START)
        if not hidden.any():
            continue
        states = encoder.states(words.masked_fill(hidden, MASK), there)
        logits = states[hidden] @ encoder.embedding.weight.T + bias
        loss = cross_entropy(logits, words[hidden])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
    encoder.zero_grad(set_to_none=True)
