"""Which tokens and positions become features, with and without padding."""

from __future__ import annotations

from collections import UserDict

import pytest
import torch
from measure_cases import batches, small_net
from torch import Tensor, nn
from transformer_blocks import TimmBlock, Tower, images

from lowland.core.errors import InputError
from lowland.measure import feature_rank
from lowland.measure.evaluation import labelled, outputs_of
from lowland.measure.features.capture import capture, stream

X = torch.randn(6, 5, 4, generator=torch.Generator().manual_seed(0))
LENGTHS = torch.tensor([5, 3, 1, 2, 4, 5])
MASK = (torch.arange(5) < LENGTHS[:, None]).long()


class Text(nn.Module):
    """A model of transformers' kind: arguments by name, outputs in a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Identity()
        self.other = nn.Flatten()

    def forward(self, *, embeds: Tensor, attention_mask: Tensor | None = None) -> dict:
        hidden = self.block(embeds)
        return {"last_hidden_state": hidden, "flat": self.other(hidden)}


def caught(tokens: str, mask: Tensor | None = MASK, x: Tensor = X, size: int = 4) -> Tensor:
    """Ragged batches of a mapping."""
    pieces = zip(x.split(size), (MASK if mask is None else mask).split(size), strict=True)
    data = [
        {"embeds": e} if mask is None else {"embeds": e, "attention_mask": m} for e, m in pieces
    ]
    return capture(Text(), data, "block", tokens=tokens)["block"]


def test_every_choice_without_padding() -> None:
    assert torch.equal(caught("flatten", None), X.flatten(1))
    assert torch.equal(caught("rows", None), X.flatten(0, 1))
    assert torch.equal(caught("class", None), X[:, 0])
    assert torch.equal(caught("last", None), X[:, -1])
    torch.testing.assert_close(caught("mean", None), X.mean(1))
    torch.testing.assert_close(caught("mean-with-padding", None), X.mean(1))
    torch.testing.assert_close(caught("mean-without-class", None), X[:, 1:].mean(1))


def test_every_choice_with_padding() -> None:
    """Against a loop over examples, each cut to its length."""
    cut = [x[:length] for x, length in zip(X, LENGTHS, strict=True)]
    assert torch.equal(caught("flatten"), X.flatten(1))
    assert torch.equal(caught("rows"), torch.cat(cut))
    assert torch.equal(caught("class"), X[:, 0])
    assert torch.equal(caught("last"), torch.stack([x[-1] for x in cut]))
    torch.testing.assert_close(caught("mean"), torch.stack([x.mean(0) for x in cut]))
    torch.testing.assert_close(caught("mean-with-padding"), X.mean(1))


def test_without_the_class_token_each_example_needs_another() -> None:
    mask = MASK.clone()
    mask[2, 1] = 1
    lengths = mask.sum(1)
    expected = torch.stack([x[1:n].mean(0) for x, n in zip(X, lengths, strict=True)])
    torch.testing.assert_close(caught("mean-without-class", mask), expected)
    with pytest.raises(InputError, match="an example has no tokens beside the first; leave it"):
        caught("mean-without-class")
    with pytest.raises(InputError, match="'block' has no tokens beside the first; take tokens="):
        caught("mean-without-class", None, X[:, :1])


def test_what_padding_holds_does_not_matter() -> None:
    spoilt = X.masked_fill(MASK[..., None] == 0, torch.nan)
    for tokens in ("rows", "class", "last", "mean"):
        assert torch.equal(caught(tokens, x=spoilt), caught(tokens)), tokens
    assert caught("mean-with-padding", x=spoilt).isnan().any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_means_are_in_the_type_of_the_model_and_summed_wider(dtype) -> None:
    x = X.to(dtype)
    found = caught("mean", x=x)
    exact = torch.stack([v[:n].double().mean(0) for v, n in zip(x, LENGTHS, strict=True)])
    assert found.dtype == dtype
    assert torch.equal(found, exact.to(dtype)) or dtype == torch.float64
    torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-12)


def test_padding_on_the_left() -> None:
    left = MASK.flip(1)
    assert torch.equal(caught("last", left), X[:, -1])
    with pytest.raises(InputError, match="some first positions are padding, so that they are no"):
        caught("class", left)


def test_masks_that_say_nothing_about_the_block() -> None:
    with pytest.raises(InputError, match="'block' has 5 positions, attention_mask has 3: it canno"):
        caught("mean", MASK[:, :3])
    assert caught("mean-with-padding", MASK[:, :3]).shape == (6, 4)
    empty = MASK.clone()
    empty[5] = 0
    with pytest.raises(InputError, match="attention_mask: an example is all padding; leave it"):
        caught("mean", empty)


def test_batches_of_other_lengths() -> None:
    pieces = [{"embeds": X[:2]}, {"embeds": X[2:, :3]}]
    found = capture(Text(), pieces, "block", tokens="mean")["block"]
    torch.testing.assert_close(found, torch.cat([X[:2].mean(1), X[2:, :3].mean(1)]))
    assert len(capture(Text(), pieces, "block", tokens="rows")["block"]) == 2 * 5 + 4 * 3
    with pytest.raises(InputError, match="'block' has 12 to 20 features per example: examples of"):
        capture(Text(), pieces, "block")


def test_any_mapping_and_pairs_with_one() -> None:
    """Tokenizers return a `UserDict`; a pair of it and labels will do as well."""
    batch = UserDict(embeds=X, attention_mask=MASK)
    expected = caught("mean")
    for data in ([batch], [(batch, LENGTHS)]):
        assert torch.equal(capture(Text(), data, "block", tokens="mean")["block"], expected)
    (inputs, targets), *rest = labelled(Text(), [{"embeds": X, "labels": LENGTHS}])
    assert list(inputs) == ["embeds"]
    assert torch.equal(targets, LENGTHS)
    assert not rest
    assert torch.equal(outputs_of(Text(), inputs)["last_hidden_state"], X)


def test_images_have_positions_too() -> None:
    model = small_net()
    flat = capture(model, batches(), "block1")["block1"]
    maps = flat.reshape(10, 4, 4, 4)
    mean = capture(model, batches(), "block*", spatial="mean")
    torch.testing.assert_close(mean["block1"], maps.mean((2, 3)))
    assert mean["block2"].shape == (10, 6)
    last = capture(model, batches(), "block1", spatial="mean", channels_last=True)["block1"]
    torch.testing.assert_close(last, maps.mean((1, 2)))
    assert torch.equal(capture(model, batches(), "block1", channels_last=True)["block1"], flat)


def test_a_class_token_needs_a_fraction_of_the_memory() -> None:
    model = Tower(TimmBlock)
    found = capture(model, images().split(3), "blocks.*", tokens="class")
    assert {rows.shape for rows in found.values()} == {(7, 8)}
    assert all(rows.untyped_storage().nbytes() == 7 * 8 * 4 for rows in found.values())
    chunk = next(stream(model, images().split(3), "blocks.0", tokens="class")())
    assert chunk.untyped_storage().nbytes() == 3 * 8 * 4


def test_features_can_stay_where_they_are_made() -> None:
    model = Tower(TimmBlock)
    found = capture(model, [images()], "blocks.*", device="model")
    assert torch.equal(found["blocks.0"], capture(model, [images()], "blocks.*")["blocks.0"])
    assert feature_rank(found["blocks.0"]).value >= 1


@pytest.mark.parametrize(
    "options", [{"tokens": "class"}, {"spatial": "mean"}, {"channels_last": True}]
)
def test_an_option_that_no_block_has_use_for(options) -> None:
    with pytest.raises(InputError, match=r"no block gives such; leave the option out"):
        capture(small_net(), batches(), "block2", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": "cls"}, "unknown choice of tokens 'cls': did you mean 'class'"),
        ({"spatial": "pool"}, "unknown choice of spatial 'pool': known: flatten, mean"),
    ],
)
def test_unknown_choices(options, message) -> None:
    with pytest.raises(InputError) as error:
        capture(small_net(), batches(), **options)
    assert str(error.value).startswith(message)


def test_positions_before_examples() -> None:
    """With as many examples as positions nothing but `batch_first` tells one from the other."""
    layer = nn.TransformerEncoderLayer(8, 2, 16)
    x = torch.randn(4, 4, 8)
    with pytest.raises(InputError, match="block '0' has batch_first=False and shape"):
        capture(nn.Sequential(layer), [x], "0")
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    assert capture(nn.Sequential(layer), [x], "0")["0"].shape == (4, 32)
