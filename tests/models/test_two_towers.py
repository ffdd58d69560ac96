"""Two towers, their heads and loss, and the encoder of texts, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lowland.core.errors import InputError
from lowland.models import TextEncoder, TwoTowers, Vocabulary, info_nce
from lowland.models.text import pooled
from lowland.models.two_towers import linear_head
from lowland.models.words import PAD, SPECIAL, START, UNKNOWN


def slow_info_nce(images: torch.Tensor, texts: torch.Tensor, temperature: float) -> float:
    """The definition, pair by pair."""
    b = len(images)
    s = [[float(images[i] @ texts[j]) / temperature for j in range(b)] for i in range(b)]
    total = 0.0
    for i in range(b):
        total -= s[i][i] - math.log(math.fsum(math.exp(s[i][j]) for j in range(b)))
        total -= s[i][i] - math.log(math.fsum(math.exp(s[j][i]) for j in range(b)))
    return total / (2 * b)


def test_info_nce_is_its_definition() -> None:
    draws = torch.Generator().manual_seed(0)
    for temperature in (0.05, 1.0):
        x, y = (torch.randn(7, 5, dtype=torch.float64, generator=draws) for _ in range(2))
        x, y = (nn.functional.normalize(part, dim=1) for part in (x, y))
        found = float(info_nce(x, y, temperature))
        assert found == pytest.approx(slow_info_nce(x, y, temperature), rel=1e-12)


def test_info_nce_of_special_cases() -> None:
    same = torch.ones(8, 1, dtype=torch.float64)
    assert float(info_nce(same, same, 0.05)) == pytest.approx(math.log(8))
    eye = torch.eye(4, dtype=torch.float64)
    assert float(info_nce(eye, eye, 0.05)) == pytest.approx(math.log1p(3 * math.exp(-20)))
    assert float(info_nce(eye, eye.roll(1, 0), 0.5)) > 2


class TestTowers:
    def towers(self, bottleneck: int | None = None) -> TwoTowers:
        torch.manual_seed(0)
        return TwoTowers(
            nn.Linear(6, 10), nn.Identity(), widths=(10, 9), dimension=8, bottleneck=bottleneck
        ).double()

    def inputs(self, n: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
        draws = torch.Generator().manual_seed(1)
        return tuple(torch.randn(n, d, dtype=torch.float64, generator=draws) for d in (6, 9))

    def test_embeddings_have_length_one_and_one_direction(self) -> None:
        made = self.towers().embed(*self.inputs())
        for projected, normalised in zip(made.projected, made.normalised, strict=True):
            assert torch.allclose(normalised.norm(dim=1), torch.ones(40, dtype=torch.float64))
            assert torch.allclose(normalised * projected.norm(dim=1, keepdim=True), projected)
        assert torch.equal(made.features[1], self.inputs()[1])

    @pytest.mark.parametrize("h", [1, 3])
    def test_a_bottleneck_bounds_the_rank_of_the_head(self, h: int) -> None:
        made = self.towers(h).embed(*self.inputs())
        for projected in made.projected:
            centred = projected - projected.mean(0)
            assert torch.linalg.matrix_rank(centred) == h
        plain = self.towers().embed(*self.inputs())
        assert torch.linalg.matrix_rank(plain.projected[1] - plain.projected[1].mean(0)) == 8

    def test_a_bottleneck_is_a_product_of_two_matrices(self) -> None:
        torch.manual_seed(2)
        head = linear_head(5, 4, 2)
        assert [name for name, _ in head.named_parameters()] == ["0.weight", "1.weight", "1.bias"]
        x = torch.randn(3, 5)
        u, v, bias = head.parameters()
        assert torch.allclose(head(x), x @ u.T @ v.T + bias, atol=1e-6)

    def test_sizes_below_one_are_refused(self) -> None:
        with pytest.raises(InputError, match="bottleneck must be 1 or more, not 0"):
            linear_head(5, 4, 0)
        with pytest.raises(InputError, match="dimension must be 1 or more"):
            linear_head(5, 0, None)


class TestPools:
    tokens = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [100.0, 100.0]]])
    present = torch.tensor([[True, True, False]])

    def test_each_is_what_its_name_says(self) -> None:
        found = {p: pooled(self.tokens, self.present, p) for p in ("first", "mean", "positions")}
        assert found["first"].tolist() == [[1.0, 2.0]]
        assert found["mean"].tolist() == [[2.0, 4.0]]
        assert found["positions"].tolist() == [[pytest.approx(104 / 3), 36.0]]

    def test_unknown_ones_are_refused(self) -> None:
        with pytest.raises(InputError, match="unknown pool 'last'"):
            pooled(self.tokens, self.present, "last")
        with pytest.raises(InputError, match=r"unknown pool 'means': did you mean 'mean'\?"):
            TextEncoder(9, length=4, width=8, depth=1, heads=2, pool="means")


class TestTextEncoder:
    def encoder(self, pool: str = "mean") -> TextEncoder:
        torch.manual_seed(0)
        made = TextEncoder(20, length=9, width=8, depth=2, heads=2, pool=pool)
        return made.double()

    @pytest.mark.parametrize("pool", ["first", "mean"])
    def test_padding_changes_nothing(self, pool: str) -> None:
        encoder, tokens = self.encoder(pool), torch.tensor([[1, 7, 8, 9]])
        alone = encoder(tokens, tokens != PAD)
        padded = torch.nn.functional.pad(tokens, (0, 4))
        assert torch.allclose(encoder(padded, padded != PAD), alone)
        other = padded.clone()
        other[0, 5] = 11  # what stands in padding is not looked at
        assert torch.allclose(encoder(other, padded != PAD), alone)

    def test_averaging_all_positions_sees_padding(self) -> None:
        encoder, tokens = self.encoder("positions"), torch.tensor([[1, 7, 8, 9]])
        padded = torch.nn.functional.pad(tokens, (0, 4))
        assert not torch.allclose(encoder(padded, padded != PAD), encoder(tokens, tokens != PAD))

    def test_order_and_words_matter(self) -> None:
        encoder, tokens = self.encoder(), torch.tensor([[1, 7, 8, 9], [1, 8, 7, 9], [1, 7, 8, 10]])
        first, turned, other = encoder(tokens, tokens != PAD)
        assert not torch.allclose(first, turned)
        assert not torch.allclose(first, other)

    def test_heads_divide_the_width(self) -> None:
        with pytest.raises(InputError, match="text width 8 has 3 heads"):
            TextEncoder(9, length=4, width=8, depth=1, heads=3)


class TestVocabulary:
    def test_words_and_what_was_never_seen(self) -> None:
        known = Vocabulary.fit(["A dog, a cat", "the Dog"])
        assert len(known) == SPECIAL + 5  # , a cat dog the
        tokens, present = known.encode(["a cat", "the dog , bird !"], 8)
        assert tokens[0].tolist()[:3] == [START, known.numbers["a"], known.numbers["cat"]]
        assert tokens.shape == (2, 6)
        assert present.sum(1).tolist() == [3, 6]
        assert tokens[1].tolist()[4:] == [UNKNOWN, UNKNOWN]
        assert (tokens[0, 3:] == PAD).all()

    def test_long_texts_are_cut_off(self) -> None:
        known = Vocabulary.fit(["a b c d"])
        assert known.encode(["a b c d"], 3)[0].shape == (1, 3)

    def test_characters(self) -> None:
        known = Vocabulary.fit(["ab ba"], "characters")
        tokens, _ = known.encode(["b a"], 9)
        assert tokens[0].tolist() == [START, *(known.numbers[c] for c in "b a")]

    def test_texts_without_words_are_refused(self) -> None:
        with pytest.raises(InputError, match="the captions have no words"):
            Vocabulary.fit([" ", ""])
        with pytest.raises(InputError, match="unknown unit of texts 'syllables'"):
            Vocabulary.fit(["a"], "syllables")
