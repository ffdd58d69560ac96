"""Encoders of texts by name, and what they are called with."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lowland.core.errors import InputError, one_line
from lowland.data import Pairs, PairSplit
from lowland.data.pairs import Captions
from lowland.models import TextEncoder
from lowland.models.hub import (
    transformers_network,
    transformers_place,
    transformers_tokenizer,
)
from lowland.models.text import pooled
from lowland.train.contrastive.contents import contents
from lowland.train.contrastive.images import drop_pooler, silent_dropout
from lowland.train.contrastive.kept import Kept
from lowland.train.contrastive.own_text import Tokenize, own_encoder
from lowland.train.contrastive.recipe import OWN_TEXTS, ContrastiveRecipe
from lowland.train.contrastive.texts import Texts, listed, places

CHUNK = 256
"""Texts per pass of an encoder that is not trained."""

TRIED = 8
"""Texts that an encoder must tell apart."""

SAME = 1e-5
"""Features that differ by less, relative to the largest, are the same up to rounding."""

_FEATURES = Kept(2)


@dataclass(frozen=True, eq=False)
class TextTower:
    """An encoder of texts, and the texts of all splits as it is called with them.

    Attributes:
        module: the encoder; `nn.Identity` where the texts are features already.
        width: number of features.
        texts: of each split; of validation and test the first captions alone.
    """

    module: nn.Module
    width: int
    texts: dict[str, Texts]


def build_texts(recipe: ContrastiveRecipe, data: Pairs, *, trial: bool = False) -> TextTower:
    """The text tower of a recipe for these data.

    Features of an encoder that is not trained are computed here, once for all runs of a process
    that have the same encoder and data.

    Args:
        recipe: what is asked.
        data: the pairs.
        trial: only find out whether it works: no pretraining, and features of one text.

    Raises:
        InputError: the encoder cannot be had, or its options do not fit.
    """
    if recipe.text in OWN_TEXTS:
        module: nn.Module
        module, tokenize = own_encoder(recipe, data, trial=trial)
    else:
        module, tokenize = _transformers(recipe, data.train.captions)
    silent_dropout(module)
    splits = {name: (split, name != "train") for name, split in data.splits.items()}
    lists = {
        name: listed(split.captions, recipe.captions, only_first=only_first)
        for name, (split, only_first) in splits.items()
    }
    if trial:
        lists = dict.fromkeys(lists, lists["test"][:1])
    if not recipe.freeze_text:
        called = {name: tokenize(texts) for name, texts in lists.items()}
        return TextTower(module, _width(module), _texts(called, splits))

    def features() -> dict[str, tuple[Tensor, ...]]:
        trim = recipe.pool != "positions"
        return {
            name: (_features(module, tokenize, texts, trim=trim),) for name, texts in lists.items()
        }

    named = ("text", "text_options", "pool", "captions", "max_tokens", "pretraining", "threads")
    key = (
        data.fingerprint,
        trial,
        *(getattr(recipe, name) for name in named),
        contents(recipe).get("text"),
    )
    found = _FEATURES(key, features)
    return TextTower(nn.Identity(), found["train"][0].shape[1], _texts(found, splits))


def _texts(
    called: Mapping[str, tuple[Tensor, ...]], splits: dict[str, tuple[PairSplit, bool]]
) -> dict[str, Texts]:
    return {
        name: Texts(tensors, *places(splits[name][0].captions, only_first=splits[name][1]))
        for name, tensors in called.items()
    }


def _features(module: nn.Module, tokenize: Tokenize, texts: list[str], *, trim: bool) -> Tensor:
    """Features of texts, in float32 on the CPU; computed on a GPU if there is one.

    Texts of about one length go through the encoder together, without the padding of longer ones.

    Args:
        module: the encoder.
        tokenize: makes its inputs.
        texts: what is read.
        trim: leave out padding that a whole pass has in common.
    """
    tokens, present = tokenize(texts)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    module = module.to(device).eval()
    lengths = present.sum(1)
    order = lengths.argsort(stable=True)
    parts = []
    with torch.no_grad():
        for rows in torch.split(order, CHUNK):
            most = int(lengths[rows].max()) if trim else tokens.shape[1]
            called = (t[rows, :most].to(device) for t in (tokens, present))
            parts.append(module(*called).float().cpu())
    return torch.cat(parts)[order.argsort()]


def _width(module: nn.Module) -> int:
    """Number of features of an encoder of texts."""
    if isinstance(module, TextEncoder):
        return module.width
    assert isinstance(module, FromTokens)
    config: Any = module.network.config
    return int(config.hidden_size)


class FromTokens(nn.Module):
    """A network of transformers that reads tokens, and one vector from its last states."""

    def __init__(self, network: nn.Module, pool: str) -> None:
        super().__init__()
        drop_pooler(network)
        self.network, self.pool = network, pool

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        """Features (b, d)."""
        found = self.network(input_ids=tokens, attention_mask=present.long())
        return pooled(found.last_hidden_state, present, self.pool)


def _transformers(recipe: ContrastiveRecipe, captions: Captions) -> tuple[FromTokens, Tokenize]:
    where = transformers_place(recipe.text)
    network, _, _ = transformers_network(recipe.text, where, heads=False)
    network = getattr(network, "text_model", network)
    tokenizer = transformers_tokenizer(recipe.text, where)
    padding = "max_length" if recipe.pool == "positions" else "longest"

    def tokenize(texts: list[str]) -> tuple[Tensor, Tensor]:
        found = tokenizer(
            texts,
            padding=padding,
            truncation=True,
            max_length=recipe.max_tokens,
            return_tensors="pt",
            return_attention_mask=True,
        )
        return found["input_ids"], found["attention_mask"].bool()

    module = FromTokens(network, recipe.pool)
    _check_tells_texts_apart(recipe, module, tokenize, captions)
    return module, tokenize


def _check_tells_texts_apart(
    recipe: ContrastiveRecipe, module: nn.Module, tokenize: Tokenize, captions: Captions
) -> None:
    """Read a few texts, and the same with the first token of each before the rest of another.

    Raises:
        InputError: they cannot be read, or what is behind the first token makes no difference.
    """
    texts = list(dict.fromkeys(itertools.islice(listed(captions, recipe.captions), 4 * TRIED)))
    if len(texts) < 2:
        return
    try:
        tokens, present = tokenize(texts[:TRIED])
        others = tokens.roll(1, 0), present.roll(1, 0)
        others[0][:, 0], others[1][:, 0] = tokens[:, 0], present[:, 0]
        with torch.no_grad():
            found, changed = module.eval()(tokens, present), module(*others)
    except Exception as error:  # whatever a network says to tokens alone, or to too many
        raise InputError(
            f"{recipe.text} cannot read texts of up to {recipe.max_tokens} tokens "
            f"({one_line(error)}): lower max_tokens, or choose an encoder of texts"
        ) from None
    if min(float((found - other).abs().amax()) for other in (found[0], changed)) <= SAME * float(
        found.abs().amax()
    ):
        raise InputError(
            f"{recipe.text} with pool={recipe.pool} gives texts the same vector whatever their "
            "words: its first token does not see the others, or its tokenizer knows none of them: "
            "set pool=mean"
        )
