"""Batches on a device: the bits of the host, which waits for nothing between two of them."""

from __future__ import annotations

import hashlib
import importlib

import pytest
import torch
from host_waits import HostWaits
from made_images import make_data, make_split
from torch import Tensor

from lowland.core.transfer import sent
from lowland.data import Split, augment, numbered_batches

MODULE = importlib.import_module("lowland.data.batches")  # a function has its name

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")

KNOWN = "1288c8e051babd45fec53201f8bfeb290d5d75080348a5dade8d71ee4b019065"
"""Of all batches below, from before draws were made ahead: runs of old go on with the same bits."""


def split() -> Split:
    return make_split([i % 7 for i in range(23)], shape=(3, 16, 16))


def checksum(examples: Split) -> str:
    found = hashlib.sha256()
    for policy in ("none", "shift", "shift-flip"):
        for epoch in (0, 3):
            options = {"batch_size": 6, "seed": 11, "epoch": epoch, "shuffle": True, "start": 1}
            for batch in numbered_batches(examples, augmentation=policy, **options):
                for part in batch:
                    found.update(part.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def test_batches_have_the_bits_that_they_always_had() -> None:
    assert checksum(split()) == KNOWN


@pytest.mark.parametrize("ahead", [2, 3, 100])
def test_draws_made_ahead_are_those_made_one_by_one(
    ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MODULE, "_ahead", lambda device: ahead)
    assert checksum(split()) == KNOWN  # with a ragged last batch, and from the second on


@CUDA
def test_batches_on_a_gpu_have_the_same_bits() -> None:
    assert checksum(split().to("cuda")) == KNOWN


def waits(examples: Split, **options: object) -> list[int]:
    """Waits before the first batch, and from each to the next."""
    data = make_data()
    with HostWaits() as counted:
        for images, _, _ in numbered_batches(
            examples, batch_size=4, shuffle=True, augmentation="shift-flip", **options
        ):
            data.normalise(images)
            counted.lap()
    return [sum(lap.values()) for lap in counted.laps]


def test_nothing_is_waited_for_from_batch_to_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    grey = make_split([i % 3 for i in range(23)], shape=(1, 8, 8)).to("meta")
    first, *rest = waits(grey)  # order and draws, and mean and deviation if they are not there yet
    assert first <= 4
    assert rest == [0] * 5
    monkeypatch.setattr(MODULE, "_ahead", lambda device: 2)
    assert waits(grey)[1:] == [0, 1, 0, 1, 0]
    assert waits(grey, start=3) == [2, 0, 1]


def test_waiting_would_be_seen() -> None:
    """What batches did before, and what else makes a host wait."""
    images = torch.zeros(4, 1, 8, 8, dtype=torch.uint8, device="meta")

    def one(of: object) -> dict[str, int]:
        with HostWaits() as counted:
            of()  # type: ignore[operator]
        return dict(counted.found)

    assert one(lambda: augment(images, "shift-flip", torch.Generator())) == {"copy": 1}
    assert one(lambda: torch.tensor([0.5], device="meta")) == {"copy": 1}
    assert one(lambda: torch.zeros(3).to("meta")) == {"copy": 1}
    assert one(lambda: torch.zeros(3, device="meta").copy_(torch.ones(3))) == {"copy": 1}
    assert one(lambda: torch.ones(3).to(torch.float64)) == {}
    assert one(lambda: float(torch.ones(3).sum())) == {"_local_scalar_dense": 1}
    assert one(lambda: torch.ones(3)[torch.ones(3).bool()])["mask"] == 1


def test_statistics_are_those_of_their_own_data() -> None:
    """They are kept by value: other data, another device, another default type."""
    images = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4)
    for seed in range(3):
        data = make_data(train=make_split([0, 1, 2] * 4, first=seed + 300))
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (data.mean, data.std))
        assert torch.equal(data.normalise(images), (images.float() - mean) / std)
        assert data.normalise(images.to("meta")).device.type == "meta"
    torch.set_default_dtype(torch.float64)
    try:
        assert data.normalise(images).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.inference_mode():
        data.normalise(images)
    weight = torch.ones((), requires_grad=True)
    (data.normalise(images) * weight).sum().backward()
    assert weight.grad is not None


def test_what_is_there_already_is_not_copied() -> None:
    values = torch.arange(3.0)
    assert sent(values, "cpu") is values
    assert sent(values, "meta").device.type == "meta"


@CUDA
def test_the_host_waits_for_nothing_on_a_gpu() -> None:
    examples, data = split().to("cuda"), make_data(train=make_split([0, 1] * 6, shape=(3, 16, 16)))

    def go(epoch: int) -> list[Tensor]:
        options = {"batch_size": 6, "shuffle": True, "augmentation": "shift-flip", "epoch": epoch}
        return [data.normalise(images) for images, _, _ in numbered_batches(examples, **options)]

    go(0)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        go(1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
