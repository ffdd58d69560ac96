"""Features of blocks: the right tensors, for the right rows, gathered or streamed."""

from __future__ import annotations

import pytest
import torch
from measure_cases import batches, data, small_net
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
)

from lowland.core.errors import InputError
from lowland.measure import active_units, capture, feature_rank, matching_blocks, stream


def by_hand(n: int = 10) -> dict[str, torch.Tensor]:
    model = small_net().eval()
    images, _ = data(n)
    with torch.no_grad():
        first = model.block1(images).clone()
        second = model.block2(model.relu(first.clone()))
    return {"block1": first.flatten(1), "block2": second}


@pytest.mark.parametrize("size", [1, 4, 10])
def test_features_are_the_outputs_of_the_blocks(size) -> None:
    model = small_net().train()
    found = capture(model, batches(size=size))
    expected = by_hand()
    assert list(found) == ["block1", "block2"]
    for name, features in found.items():
        torch.testing.assert_close(features, expected[name])
        assert not features.requires_grad


def test_an_operation_in_place_after_the_block_does_not_change_its_features() -> None:
    """The ReLU after block1 overwrites the very tensor that the block returned."""
    assert (capture(small_net(), batches(), "block1")["block1"] < 0).any()


@pytest.mark.parametrize(
    ("glob", "names"),
    [
        ("block*", ["block1", "block2"]),
        ("block2,block1", ["block1", "block2"]),
        ("head, block1", ["block1", "head"]),
        ("block1.*", ["block1.0", "block1.1"]),
        ("block?.1", ["block1.1", "block2.1"]),
        ("*", ["block1", "relu", "block2", "head"]),
    ],
)
def test_globs_stay_within_one_level(glob, names) -> None:
    assert matching_blocks(small_net(), glob) == names


def test_an_unknown_block_names_the_nearest() -> None:
    with pytest.raises(InputError, match="unknown block 'blok2': did you mean 'block2'"):
        capture(small_net(), batches(), "blok2")
    with pytest.raises(InputError, match=r"did you mean 'block1\.1'"):
        capture(small_net(), batches(), "block1.7")


def test_inputs_alone_are_enough() -> None:
    images, _ = data()
    found = capture(small_net(), images.split(3), "block2")["block2"]
    torch.testing.assert_close(found, by_hand()["block2"])


@pytest.mark.parametrize("block", ["block1", "block2"])
def test_streaming_gives_the_same_rank_and_active_units(block) -> None:
    model = small_net()
    gathered = capture(model, batches(40), block)[block]
    chunks = stream(model, batches(40), block)
    torch.testing.assert_close(torch.cat(list(chunks())), gathered)
    assert feature_rank(chunks).ranks == feature_rank(gathered).ranks
    assert active_units(chunks).value == active_units(gathered).value


def test_a_data_loader_in_order_can_be_streamed() -> None:
    loader = DataLoader(TensorDataset(*data()), batch_size=4)
    chunks = stream(small_net(), loader, "block2")
    torch.testing.assert_close(torch.cat(list(chunks())), by_hand()["block2"])


def test_an_open_stream_is_closed_with_its_iterator() -> None:
    model = small_net().train()
    iterator = stream(model, batches(), "block2")()
    next(iterator)
    assert torch.is_grad_enabled()
    assert not model.training
    iterator.close()
    assert model.training
    assert not model.block2._forward_hooks


SET = TensorDataset(*data())


@pytest.mark.parametrize("read", [capture, stream])
@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (DataLoader(SET, batch_size=4, shuffle=True), "the data loader shuffles, so that rows"),
        (DataLoader(SET, sampler=SubsetRandomSampler(range(4))), "give it shuffle=False"),
        (
            DataLoader(SET, batch_sampler=BatchSampler(RandomSampler(SET), 4, False)),
            "the data loader shuffles",
        ),
        (iter(batches()), "an iterator can be read only once; give a list of batches or a data"),
    ],
)
def test_shuffled_and_one_shot_data_are_refused(read, pairs, message) -> None:
    with pytest.raises(InputError, match=message):
        read(small_net(), pairs, "block1")


def test_no_batches_are_refused() -> None:
    with pytest.raises(InputError, match="batches: no examples; give at least one batch"):
        capture(small_net(), [])
    with pytest.raises(InputError, match="features: no chunks"):
        feature_rank(stream(small_net(), [], "block1"))


def test_a_stream_is_of_one_block() -> None:
    with pytest.raises(InputError, match=r"'block\*' matches block1, block2; name one of them"):
        stream(small_net(), batches(), "block*")


class Pair(nn.Module):
    """Something before the features."""

    def forward(self, x: torch.Tensor) -> tuple[None, torch.Tensor]:
        return None, x


class Odd(nn.Module):
    """Blocks that cannot be captured."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Linear(4, 4)
        self.never = nn.Linear(4, 4)
        self.pair = Pair()
        self.mixed = nn.Flatten(0)
        self.scalar = nn.L1Loss()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.twice(self.twice(x))
        return self.mixed(self.pair(x)[1]).sum() + self.scalar(x, x)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("twice", "block 'twice' ran 2 times in a forward pass; choose one that runs once"),
        ("never", "block 'never' ran 0 times in a forward pass"),
        ("pair", "block 'pair' returns tuple, no tensor first; choose one that returns a tensor"),
        ("mixed", r"block 'mixed' returns shape \(12,\) for 3 examples; choose one with a row"),
        ("scalar", r"block 'scalar' returns shape \(\) for 3 examples"),
    ],
)
def test_blocks_without_a_row_per_example_are_refused(block, message) -> None:
    model = Odd()
    with pytest.raises(InputError, match=message):
        capture(model, [torch.ones(3, 4)], block)
    assert not model.get_submodule(block)._forward_hooks


def test_of_several_outputs_the_first_is_taken() -> None:
    """A recurrent layer returns its outputs and its last state."""
    model = nn.Sequential(nn.LSTM(4, 5, batch_first=True))
    x = torch.randn(3, 2, 4)
    with torch.no_grad():
        expected = model(x)[0].flatten(1)
    torch.testing.assert_close(capture(model, [x], "0")["0"], expected)


def test_one_output_per_example_is_one_feature() -> None:
    model = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
    assert capture(model, [torch.ones(3, 4)], "1")["1"].shape == (3, 1)


def test_no_graph_is_recorded() -> None:
    model, recorded = small_net(), []
    model.head.register_forward_hook(lambda module, inputs, output: recorded.append(output))
    capture(model, batches())
    assert len(recorded) == 3
    assert not any(output.requires_grad for output in recorded)


def test_hooks_of_the_user_come_first() -> None:
    model = small_net()
    model.block2.register_forward_hook(lambda module, inputs, output: output + 1)
    found = capture(model, batches(), "block2")["block2"]
    torch.testing.assert_close(found, by_hand()["block2"] + 1)


def test_features_keep_the_type_of_the_model() -> None:
    model = small_net().to(torch.bfloat16)
    images, _ = data()
    found = capture(model, [images.to(torch.bfloat16)], "block2")["block2"]
    assert found.dtype == torch.bfloat16
    assert feature_rank(found).value >= 1


@pytest.mark.parametrize("compile_it", [torch.compile, lambda m, **k: m.compile(**k) or m])
def test_a_compiled_model(compile_it) -> None:
    """Graphs made before the hooks existed would skip them."""
    model = compile_it(small_net(), backend="eager")
    model.eval()
    with torch.no_grad():
        model(data()[0])
    found = capture(model, [data()[0]])
    for name, features in by_hand().items():
        torch.testing.assert_close(found[name], features)


class Named(nn.Module):
    """Called by name, without labels."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Linear(2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x)


@pytest.mark.parametrize("wrap", [lambda m: m, nn.DataParallel, torch.compile])
def test_labels_of_a_mapping_are_kept_from_models_that_take_none(wrap) -> None:
    model, x = Named(), torch.randn(4, 2)
    data = [{"x": x, "labels": torch.zeros(4)}]
    found = capture(wrap(model), data, "*.block" if wrap is nn.DataParallel else "block")
    assert torch.equal(next(iter(found.values())), model.block(x).detach())


class Labelled(Named):
    """Takes labels, and needs them."""

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + labels[:, None]


def test_labels_go_to_models_that_take_them() -> None:
    data = [{"x": torch.randn(4, 2), "labels": torch.zeros(4)}]
    assert capture(Labelled(), data, "block")["block"].shape == (4, 3)
