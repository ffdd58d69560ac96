"""Everything that cannot be measured is said in one line, before the work is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from made_networks import MEAN_STD, array_data, asked, foreign, inspected, narrow, pixels, png

from lowland.core.errors import InputError, one_line
from lowland.data import open_examples
from lowland.inspection import How, load_subject, measuring, probing
from lowland.inspection.measuring import measure, prepare
from lowland.inspection.subject import default_blocks
from lowland.measure import inspect_model

HOW = How(constructor="made_networks:foreign", **MEAN_STD)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.save(foreign().state_dict(), tmp_path / "w.pt")
    return tmp_path / "w.pt"


def refused(weights: Path, how: How = HOW, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        inspected(weights, how=how, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_blocks(weights: Path, tmp_path: Path) -> None:
    text = refused(weights, data=array_data(tmp_path), blocks="stage.*")
    assert text.startswith("unknown block 'stage.*': did you mean 'stages.")


def test_normalisation_that_nobody_said(weights: Path, tmp_path: Path) -> None:
    how = How(constructor="made_networks:foreign")
    text = refused(weights, how, data=array_data(tmp_path))
    assert "nothing says how" in text
    assert "0.485,0.456,0.406" in text
    half = How(constructor="made_networks:foreign", mean=(0.5,))
    assert "nothing says how" in refused(weights, half, data=array_data(tmp_path))


def test_channels(weights: Path, tmp_path: Path) -> None:
    how = How(constructor="made_networks:foreign", mean=(0.5, 0.5), std=(0.5, 0.5))
    assert "takes images of 3 channels, --mean and --std have 2" in refused(
        weights, how, data=array_data(tmp_path)
    )
    one = How(constructor="made_networks:foreign", mean=(0.5,), std=(0.25,))
    grey = np.random.default_rng(0).integers(0, 256, (6, 8, 8), dtype=np.uint8)
    record = inspected(weights, how=one, data=array_data(tmp_path, x=grey, y=None))
    assert record["subjects"][0]["preprocessing"]["mean"] == [0.5] * 3


def test_sizes(weights: Path, tmp_path: Path) -> None:
    mixed = [png(pixels(1, size)[0]) for size in (8, 8, 9)]
    pq.write_table(pa.table({"image": mixed}), tmp_path / "x.parquet")
    data = f"parquet:{tmp_path / 'x.parquet'}"
    assert "images are of several sizes, (3, 8, 8) and (3, 9, 9): give --size" in refused(
        weights, data=data
    )
    sized = How(constructor="made_networks:foreign", size=(8, 8), **MEAN_STD)
    assert inspected(weights, how=sized, data=data)["data"]["n"] == 3


def test_images_that_the_network_cannot_read(tmp_path: Path) -> None:
    torch.save(narrow().state_dict(), tmp_path / "w.pt")
    how = How(constructor="made_networks:narrow", **MEAN_STD)
    text = refused(tmp_path / "w.pt", how, data=array_data(tmp_path), what="weight-norm")
    assert "cannot read images of shape 3x8x8 (mat1 and mat2 shapes cannot be multiplied" in text
    assert "give --size" in text
    torch.save(torch.nn.Linear(4, 3).state_dict(), tmp_path / "w.pt")
    arguments = {"in_features": 4, "out_features": 3}
    how = How(constructor="torch.nn:Linear", arguments=arguments, **MEAN_STD)
    assert "it has no blocks" in refused(tmp_path / "w.pt", how, data=array_data(tmp_path))


def test_labels(weights: Path, tmp_path: Path) -> None:
    data = array_data(tmp_path, y=None)
    text = refused(weights, data=data, what="rank,loss")
    assert text.startswith("loss needs labels, npz:")
    assert text.endswith("has none: leave it out of --what")
    assert "--order classes needs labels" in refused(weights, data=data, order="classes")
    assert (
        inspected(weights, how=HOW, data=data, what="rank,weight-norm")["data"]["labelled"] is False
    )


def test_classes(weights: Path, tmp_path: Path) -> None:
    data = array_data(tmp_path, y=np.arange(21) % 5)
    text = refused(weights, data=data, what="sharpness")
    assert "has label 4" in text
    assert "has 3 outputs (0 to 2): give the data of its own classes" in text
    record = inspected(weights, how=HOW, data=data, what="rank")
    assert record["notes"] == []


def test_fewer_classes_than_outputs_are_noted(weights: Path, tmp_path: Path) -> None:
    """Folders of a few classes of many are numbered from 0: the loss is then of other classes."""
    data = array_data(tmp_path, y=np.arange(21) % 2)
    notes = inspected(weights, how=HOW, data=data, what="loss")["subjects"][0]["notes"]
    assert any(note.startswith("It has 3 outputs, the data 2 classes") for note in notes)
    for options in ({"what": "rank"}, {"what": "loss", "data": array_data(tmp_path)}):
        record = inspected(weights, how=HOW, **{"data": data, **options})
        assert not any("outputs" in note for note in record["subjects"][0]["notes"])


def test_grey_and_colour_without_a_number_of_channels(tmp_path: Path) -> None:
    torch.save(narrow().state_dict(), tmp_path / "w.pt")
    mixed = [png(pixels(1, 8)[0]), png(pixels(1, 8)[0][..., 0])]
    pq.write_table(pa.table({"image": mixed}), tmp_path / "x.parquet")
    how = How(constructor="made_networks:narrow", mean=(0.5,), std=(0.25,))
    text = refused(tmp_path / "w.pt", how, data=f"parquet:{tmp_path / 'x.parquet'}")
    assert "some images are grey, others colour" in text


def test_a_network_that_has_diverged(tmp_path: Path) -> None:
    model = foreign()
    with torch.no_grad():
        model.stages[1].a.weight[0, 0, 0, 0] = float("nan")
    torch.save(model.state_dict(), tmp_path / "w.pt")
    data = array_data(tmp_path)
    text = refused(tmp_path / "w.pt", data=data, what="rank")
    assert "computes NaN or infinity on the first examples: it has diverged" in text
    record = inspected(tmp_path / "w.pt", how=HOW, data=data, what="loss,weight-norm")
    assert record["subjects"][0]["model"]["loss"]["value"] == "nan"
    assert record["subjects"][0]["model"]["weight-norm"]["value"] == "nan"


def test_devices(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    data = array_data(tmp_path)
    assert "--device cuda: no GPU that torch can use is there" in refused(
        weights, data=data, device="cuda"
    )
    assert "use auto, cpu, cuda or cuda:N" in refused(weights, data=data, device="gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert "--device cuda:1: 1 GPUs are there" in refused(weights, data=data, device="cuda:1")


def test_features_that_do_not_fit_into_memory(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "free_memory", lambda: 10_000)
    data = array_data(tmp_path)
    text = refused(weights, data=data)
    assert "features of 21 examples take" in text
    assert "use fewer --examples" in text
    assert inspected(weights, how=HOW, data=data, spatial="mean")["data"]["n"] == 21
    assert inspected(weights, how=HOW, data=data, what="loss")["data"]["n"] == 21


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError("x memory"), RuntimeError("can't allocate memory")],
)
def test_memory_that_runs_out(
    error: Exception, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out(*arguments: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(measuring, "inspect_model", out)
    text = refused(weights, data=array_data(tmp_path))
    assert "w.pt, rank, active: memory ran out: use a smaller --batch-size" in text


def test_other_errors_are_not_hidden(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(measuring, "inspect_model", out)
    with pytest.raises(RuntimeError, match="a bug"):
        inspected(weights, how=HOW, data=array_data(tmp_path))


def test_what_the_instruments_refuse_names_network_and_instrument(
    weights: Path, tmp_path: Path
) -> None:
    text = refused(weights, data=array_data(tmp_path), settings=["active.channels=7"])
    assert "w.pt, rank, active: " in text
    assert "channels: 7 do not divide" in text


def test_data(weights: Path, tmp_path: Path) -> None:
    assert "nothing says what" in refused(weights)
    with pytest.raises(InputError, match="3 models: give one, or two"):
        inspected(weights, weights, weights, how=HOW)
    with pytest.raises(InputError, match="0 models"):
        inspected(how=HOW)


def test_nothing_is_measured_on_what_cannot_be(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All networks are checked before the first one is measured."""
    calls: list[Any] = []
    monkeypatch.setattr(measuring, "inspect_model", lambda *a, **k: calls.append(a))
    bad = foreign()
    with torch.no_grad():
        bad.readout.weight.fill_(float("inf"))
    torch.save(bad.state_dict(), tmp_path / "bad.pt")
    with pytest.raises(InputError, match="NaN or infinity"):
        inspected(weights, tmp_path / "bad.pt", how=HOW, data=array_data(tmp_path))
    assert not calls


def test_the_network_is_left_as_it_was(weights: Path, tmp_path: Path) -> None:
    """Inspecting the same object twice gives the same, and no bit of it has moved."""
    subject = load_subject(str(weights), HOW)
    before = {k: v.clone() for k, v in subject.module.state_dict().items()}
    request = asked(what="rank,loss,sharpness")
    ready = prepare(subject, open_examples(array_data(tmp_path)), request, lambda words: None)
    one = measure(ready, request, lambda words: None)
    two = measure(ready, request, lambda words: None)
    for name, record in one.model.items():
        assert two.model[name].value == record.value
    assert all(torch.equal(v, before[k]) for k, v in subject.module.state_dict().items())
    direct = inspect_model(
        foreign(), ready.inputs, ["loss"], blocks="stages.*", loss_fn=measuring.per_example
    )
    assert direct.model["loss"].value == one.model["loss"].value


class Nested(torch.nn.Module):
    def __init__(self, **parts: torch.nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


@pytest.mark.parametrize(
    ("model", "glob"),
    [
        (foreign(), "stages.[0-9]*"),
        (torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)), "[0-9]*"),
        (Nested(layer1=torch.nn.Linear(4, 4), layer2=torch.nn.Linear(4, 4)), "layer[0-9]*"),
        (
            Nested(bn0=torch.nn.Linear(1, 1), bn1=torch.nn.Linear(1, 1), b=foreign()),
            "b.stages.[0-9]*",
        ),
        (Nested(stem=torch.nn.Linear(2, 2), act=torch.nn.ReLU(), head=torch.nn.Linear(2, 2)),
         "stem,head"),
        (torch.nn.Linear(2, 2), "*"),
    ],
)  # fmt: skip
def test_default_blocks(model: torch.nn.Module, glob: str) -> None:
    assert default_blocks(model) == glob


def test_a_missing_key_is_called_that() -> None:
    assert one_line(KeyError(101)) == "KeyError: 101"


def test_long_errors_are_cut() -> None:
    assert one_line(ValueError("\n  first\nsecond")) == "first"
    assert one_line(ValueError()) == "ValueError"
    assert len(one_line(ValueError("x" * 999))) == 200
