"""This package's own encoder of texts, made for the captions of a data set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from lowland.core.errors import InputError, unknown
from lowland.core.seeds import derived_seed
from lowland.data import Pairs
from lowland.models import TextEncoder, Vocabulary
from lowland.train.contrastive.kept import Kept
from lowland.train.contrastive.pretraining import guess_masked_words
from lowland.train.contrastive.recipe import ContrastiveRecipe
from lowland.train.contrastive.texts import listed

TEXT = {"width": 128, "depth": 2, "heads": 2}
"""What the options of the encoder are where they are left out."""

Tokenize = Callable[[list[str]], tuple[Tensor, Tensor]]
"""Texts -> tokens (m, t), and which of them are there."""

_PRETRAINED = Kept(2)


def own_encoder(
    recipe: ContrastiveRecipe, data: Pairs, *, trial: bool
) -> tuple[TextEncoder, Tokenize]:
    """Encoder and tokenizer of ``text=words`` or ``text=characters``.

    It starts from the run's seed; one that is pretrained or frozen is the same for all seeds, as
    everybody fine-tunes the same published encoder.

    Args:
        recipe: what is asked.
        data: the pairs, whose training captions make the vocabulary.
        trial: leave out the pretraining.

    Raises:
        InputError: an option that it has not, or cannot take.
    """
    options = _options(recipe)
    train = listed(data.train.captions, recipe.captions)
    vocabulary = Vocabulary.fit(train, recipe.text)

    def tokenize(texts: list[str]) -> tuple[Tensor, Tensor]:
        tokens, present = vocabulary.encode(texts, recipe.max_tokens)
        missing = recipe.max_tokens - tokens.shape[1] if recipe.pool == "positions" else 0
        return pad(tokens, (0, missing)), pad(present, (0, missing))

    shared = recipe.freeze_text or recipe.pretraining > 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(0 if shared else recipe.seed, "initialisation", "text"))
        encoder = TextEncoder(
            len(vocabulary), length=recipe.max_tokens, pool=recipe.pool, **options
        )

    def pretrained() -> dict[str, Tensor]:
        guess_masked_words(encoder, *tokenize(train), steps=recipe.pretraining)
        return {name: tensor.clone() for name, tensor in encoder.state_dict().items()}

    if recipe.pretraining and not trial:
        named = ("text", "text_options", "pool", "captions", "max_tokens", "pretraining", "threads")
        key = (data.fingerprint, *(getattr(recipe, name) for name in named))
        encoder.load_state_dict(_PRETRAINED(key, pretrained))
    return encoder, tokenize


def _options(recipe: ContrastiveRecipe) -> dict[str, int]:
    found: dict[str, Any] = {**TEXT, **dict(recipe.text_options)}
    for key, value in found.items():
        if key not in TEXT:
            raise unknown(f"option of text={recipe.text}", key, TEXT)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"text_options: {key} must be a whole number from 1, not {value!r}")
    return found
