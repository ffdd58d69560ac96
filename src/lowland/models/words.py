"""Texts as numbers: the words, or the characters, of the captions that it was fitted on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lowland.core.errors import InputError, unknown

PAD, START, MASK, UNKNOWN = range(4)
"""Padding, the first token of every text, a word that is to be guessed, a word never seen."""

SPECIAL = 4
UNITS = {
    "words": re.compile(r"\w+|[^\w\s]"),
    "characters": re.compile(r"(?s)."),
}
"""What a token is: a word or a punctuation mark, or a character; all in lower case."""


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """A tokenizer.

    Attributes:
        units: "words" or "characters".
        numbers: number of each token, from `SPECIAL` on, in alphabetical order.
    """

    units: str
    numbers: dict[str, int]

    @classmethod
    def fit(cls, texts: Iterable[str], units: str = "words") -> Vocabulary:
        """Every token of these texts.

        Raises:
            InputError: unknown units, or texts without any token.
        """
        if units not in UNITS:
            raise unknown("unit of texts", units, UNITS)
        found = sorted({token for text in texts for token in _split(text, units)})
        if not found:
            raise InputError("the captions have no words: captions are texts")
        return cls(units, {token: SPECIAL + place for place, token in enumerate(found)})

    def __len__(self) -> int:
        return SPECIAL + len(self.numbers)

    def encode(self, texts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
        """Tokens int64 (n, t) and which of them are there, bool (n, t); t is the longest text's.

        Every text begins with `START`; what goes beyond `length` is cut off.
        """
        rows = [[START, *(self._number(t) for t in _split(text, self.units))] for text in texts]
        rows = [row[:length] for row in rows]
        longest = max(map(len, rows), default=1)
        tokens = torch.full((len(rows), longest), PAD)
        for place, row in enumerate(rows):
            tokens[place, : len(row)] = torch.tensor(row)
        return tokens, tokens != PAD

    def _number(self, token: str) -> int:
        return self.numbers.get(token, UNKNOWN)


def _split(text: str, units: str) -> list[str]:
    return UNITS[units].findall(text.lower())
