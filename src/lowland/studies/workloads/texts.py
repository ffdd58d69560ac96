"""Captions as texts in which every next word is to be guessed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lowland.core.errors import InputError
from lowland.data import Pairs, PairSplit, load_pairs
from lowland.models.words import PAD, SPECIAL, UNITS, UNKNOWN, Vocabulary

CAPTIONS = "captions:"
"""What the names of such data begin with; the rest is a name of `lowland.data.PAIRS`."""

FORM = "captions:FILE.parquet, captions:coco:FOLDER or captions:digits-captions"


@dataclass(frozen=True, eq=False)
class Texts:
    """Texts as tokens.

    Attributes:
        tokens: int64 (n, t + 1); the first is `START`, what is left is `PAD`.
        asked: bool (n, t), whether the token after this place is to be guessed: a word of the
            vocabulary.
    """

    tokens: Tensor
    asked: Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def given(self) -> Tensor:
        """(n, t) what is read."""
        return self.tokens[:, :-1]

    @property
    def wanted(self) -> Tensor:
        """(n, t) what comes next."""
        return self.tokens[:, 1:]


COLUMNS = ("image_column", "caption_column")
"""Settings that say where images and captions stand in a table."""


def read_captions(
    name: str, *, limit: int | None = None, columns: Mapping[str, str] | None = None
) -> Pairs:
    """Captions of images by name; the images are decoded small and not used.

    Args:
        name: ``captions:`` and a name of `lowland.data.PAIRS`, or the path of a Parquet file.
        limit: keep at most so many training images.
        columns: names of columns by `COLUMNS`; those left out are found by the usual names.

    Raises:
        InputError: as `lowland.data.load_pairs`, or there is nothing behind the colon.
    """
    place = name.removeprefix(CAPTIONS)
    if not place:
        raise InputError(f"data {name!r} lacks its captions: write {FORM}")
    if place.partition(":")[0].endswith(".parquet"):
        place = f"parquet:{place}"
    size = None if place == "digits-captions" else 8
    image, caption = ((columns or {}).get(key) for key in COLUMNS)
    return load_pairs(place, size=size, limit=limit, image_column=image, caption_column=caption)


def common_words(split: PairSplit, most: int) -> Vocabulary:
    """The commonest words of the captions of a split, at most so many; ties in alphabetical order.

    Raises:
        InputError: `most` is below 1.
    """
    if most < 1:
        raise InputError(f"words is {most}: use 1 or more")
    texts = [text for of_image in split.captions for text in of_image]
    counts = Counter(word for text in texts for word in UNITS["words"].findall(text.lower()))
    if not counts:
        raise InputError("the captions have no words: captions are texts")
    kept = sorted(counts, key=lambda word: (-counts[word], word))[:most]
    return Vocabulary("words", {word: SPECIAL + i for i, word in enumerate(sorted(kept))})


def as_texts(captions: Sequence[Sequence[str]], words: Vocabulary, length: int) -> Texts:
    """All captions of some images, at most `length` words of each.

    A word that is not in the vocabulary is read as one that was never seen, and never asked for.
    """
    tokens, _ = words.encode([text for of_image in captions for text in of_image], length + 1)
    wanted = tokens[:, 1:]
    texts = Texts(tokens, (wanted != PAD) & (wanted != UNKNOWN))
    if not bool(texts.asked.any()):
        raise InputError("no caption has a word of the vocabulary: raise words")
    return texts


def word_losses(logits: Tensor, texts: Texts, rows: Tensor) -> Tensor:
    """Cross-entropy of every word that is asked for, 0 elsewhere: (..., t).

    Args:
        logits: (..., t, words).
        texts: all of them.
        rows: (...) the text of each.
    """
    wanted = texts.wanted[rows][..., None]
    losses = torch.logsumexp(logits, -1) - logits.gather(-1, wanted)[..., 0]
    return losses * texts.asked[rows]
