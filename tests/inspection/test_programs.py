"""TorchScript and exported programs: the same numbers as the network they were made from."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from made_networks import MEAN_STD, array_data, foreign, inspected
from torch import nn

from lowland.core.errors import InputError
from lowland.inspection import How, load_subject
from lowland.measure import one_step_sharpness

HOW = How(**MEAN_STD)
WHAT = "rank,active,loss,sharpness,weight-norm"


def scripted(model: nn.Module, path: Path, *, trace: bool) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        made = torch.jit.trace(model, torch.zeros(2, 3, 8, 8)) if trace else torch.jit.script(model)
        made.save(str(path))
    return path


def exported(path: Path, *, fixed: bool = False) -> Path:
    batch = None if fixed else {0: torch.export.Dim("b", min=1, max=512)}
    program = torch.export.export(
        foreign(), (torch.zeros(4, 3, 8, 8),), dynamic_shapes=None if fixed else (batch,)
    )
    torch.export.save(program, path)
    return path


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """Data, and what the network itself gives on them."""
    folder = tmp_path_factory.mktemp("eager")
    data = array_data(folder)
    torch.save(foreign().state_dict(), folder / "w.pt")
    how = How(constructor="made_networks:foreign", **MEAN_STD)
    return data, inspected(folder / "w.pt", data=data, how=how, what=WHAT)["subjects"][0]


def same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Equal values of all instruments, blocks and the whole."""
    assert list(found["blocks"]) == list(expected["blocks"]) == [f"stages.{i}" for i in range(3)]
    for block, row in expected["blocks"].items():
        for name, record in row.items():
            value = found["blocks"][block][name]["value"]
            assert value == pytest.approx(record["value"], rel=1e-4), (block, name)
    for name, record in expected["model"].items():
        assert found["model"][name]["value"] == pytest.approx(record["value"], rel=1e-4), name


@pytest.mark.parametrize("trace", [False, True])
def test_script(trace: bool, tmp_path: Path, expected: tuple[str, dict[str, Any]]) -> None:
    path = scripted(foreign(), tmp_path / "p.pt", trace=trace)
    found = inspected(path, data=expected[0], how=HOW, what=WHAT)["subjects"][0]
    same(found, expected[1])
    assert found["kind"] == "TorchScript program"
    assert "its main program calls" in found["notes"][0]


def test_exported_program(tmp_path: Path, expected: tuple[str, dict[str, Any]]) -> None:
    path = exported(tmp_path / "p.pt2")
    found = inspected(path, data=expected[0], how=HOW, what=WHAT)["subjects"][0]
    same(found, expected[1])
    assert found["facts"]["input"] == ["any", 3, 8, 8]


def test_a_program_of_one_batch_size_gets_whole_batches(
    tmp_path: Path, expected: tuple[str, dict[str, Any]]
) -> None:
    path = exported(tmp_path / "p.pt2", fixed=True)
    found = inspected(path, data=expected[0], how=HOW, what="rank")["subjects"][0]
    assert found["n"] == 20
    assert "exported for batches of 4, so 20 of 21 examples were used" in found["notes"][1]
    with pytest.raises(InputError, match="batches of 4, the data has 3 examples"):
        inspected(path, data=expected[0], how=HOW, what="rank", examples=3)


def test_gradients_reach_the_parameters_of_a_script(tmp_path: Path) -> None:
    """Moving the shared parameters moves the program, and they come back."""
    subject = load_subject(str(scripted(foreign(), tmp_path / "p.pt", trace=False)), HOW)
    batches = [(torch.randn(5, 3, 8, 8), torch.arange(5) % 3)]
    before = subject.module(batches[0][0]).detach()
    names = {name for name, _ in subject.module.named_parameters()}
    assert names == {name for name, _ in foreign().named_parameters()}
    loss = torch.nn.functional.cross_entropy
    one = one_step_sharpness(subject.module, loss, batches, rho=0.5)
    other = one_step_sharpness(foreign(), loss, batches, rho=0.5)
    assert one.value == pytest.approx(other.value, rel=1e-4)
    assert one.value != 0
    assert torch.equal(subject.module(batches[0][0]), before)


def test_a_script_follows_the_mode(tmp_path: Path) -> None:
    module = load_subject(str(scripted(foreign(), tmp_path / "p.pt", trace=False)), HOW).module
    x = torch.randn(64, 3, 8, 8)
    assert torch.equal(module(x), module(x))
    module.train()
    assert not torch.equal(module(x), module(x)), "dropout"


def test_a_script_that_is_moved_takes_its_buffers_along(tmp_path: Path) -> None:
    module = load_subject(str(scripted(foreign(), tmp_path / "p.pt", trace=False)), HOW).module
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(module.double()(x), foreign().double()(x))


class Inside(nn.Module):
    """A program that calls one submodule, in which all others are hidden."""

    def __init__(self) -> None:
        super().__init__()
        self.whole = foreign()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.whole(x)
        return out


def test_blocks_that_cannot_be_seen_are_said(tmp_path: Path) -> None:
    path = scripted(Inside().eval(), tmp_path / "p.pt", trace=False)
    data = array_data(tmp_path)
    assert load_subject(str(path), HOW).blocks == "whole"
    with pytest.raises(InputError, match=r"does not call 'whole.stages.0' itself.* use whole"):
        inspected(path, data=data, how=HOW, blocks="whole.stages.*")
    loss = inspected(path, data=data, how=HOW, what="loss", blocks="whole.stages.*")
    assert loss["subjects"][0]["model"]["loss"]["n"] == 21


def test_a_script_without_submodules(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        frozen = torch.jit.freeze(torch.jit.script(foreign()))  # type: ignore[no-untyped-call]
    frozen.save(str(tmp_path / "p.pt"))
    subject = load_subject(str(tmp_path / "p.pt"), HOW)
    assert "features of blocks cannot" in subject.notes[0]
    x = torch.randn(2, 3, 8, 8)
    assert torch.allclose(subject.module(x), foreign()(x), atol=1e-6)
