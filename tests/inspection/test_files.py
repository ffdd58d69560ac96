"""Networks from files: weights in every wrapping, NumPy checkpoints, run directories."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from jax_checkpoints import mixer_arrays, vit_arrays, vit_forward
from made_networks import MEAN_STD, array_data, foreign, inputs, inspected, pixels

from lowland.core.errors import InputError
from lowland.data import load
from lowland.inspection import How, load_subject
from lowland.models import create
from lowland.train import Recipe, read_history, run
from lowland.train.directory import HISTORY

CONSTRUCTOR = How(constructor="made_networks:foreign", arguments={"seed": 5}, **MEAN_STD)


def saved(folder: Path, wrap: Callable[[dict[str, Any]], Any], name: str = "w.pt") -> Path:
    torch.save(wrap(foreign().state_dict()), folder / name)
    return folder / name


WRAPPINGS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "bare": lambda w: w,
    "state_dict": lambda w: {"epoch": 3, "state_dict": w, "optimizer": {"lr": 0.1}},
    "model of a compiled network": lambda w: {"model": {f"_orig_mod.{k}": v for k, v in w.items()}},
    "DataParallel": lambda w: {"state_dict": {f"module.{k}": v for k, v in w.items()}},
    "Lightning": lambda w: {"state_dict": {f"model.{k}": v for k, v in w.items()}},
    "compiled in DataParallel": lambda w: {f"module._orig_mod.{k}": v for k, v in w.items()},
    "two deep": lambda w: {"model": {"state_dict": w}},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_wrappings(wrapping: str, tmp_path: Path) -> None:
    subject = load_subject(str(saved(tmp_path, WRAPPINGS[wrapping])), CONSTRUCTOR)
    assert not subject.module.training
    for name, value in foreign().state_dict().items():
        assert torch.equal(subject.module.state_dict()[name], value), name
    assert subject.blocks == "stages.[0-9]*"
    assert len(subject.facts["sha256"]["w.pt"]) == 64


def test_safetensors(tmp_path: Path) -> None:
    safetensors.torch.save_file(foreign().state_dict(), tmp_path / "w.safetensors")
    subject = load_subject(str(tmp_path / "w.safetensors"), CONSTRUCTOR)
    assert torch.equal(subject.module.entry.weight, foreign().entry.weight)


def test_of_several_nests_the_first_is_taken_and_said(tmp_path: Path) -> None:
    path = saved(tmp_path, lambda w: {"state_dict": w, "model": {k: 0 * v for k, v in w.items()}})
    subject = load_subject(str(path), CONSTRUCTOR)
    assert subject.notes == ("w.pt has weights under state_dict, model; state_dict was taken.",)
    assert subject.module.entry.weight.abs().max() > 0


def test_old_batchnorm_weights_without_counter(tmp_path: Path) -> None:
    path = saved(tmp_path, lambda w: {k: v for k, v in w.items() if "num_batches" not in k})
    assert load_subject(str(path), CONSTRUCTOR).module.norm.num_batches_tracked == 0


def test_nothing_in_a_file_ever_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call of torch.load asks for weights only; a file that needs more is refused."""
    torch.save(foreign(), tmp_path / "whole.pt")
    flags: list[Any] = []
    real = torch.load

    def watched(*arguments: Any, **options: Any) -> Any:
        flags.append(options.get("weights_only"))
        return real(*arguments, **options)

    monkeypatch.setattr(torch, "load", watched)
    with pytest.raises(InputError, match=r"holds Python objects \(made_networks.Foreign\)"):
        load_subject(str(tmp_path / "whole.pt"), CONSTRUCTOR)
    load_subject(str(saved(tmp_path, lambda w: w)), CONSTRUCTOR)
    assert flags == [True, True]


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda w: {k: v for k, v in w.items() if "readout" not in k}, "2 tensors are missing (re"),
        (lambda w: {**w, "other": w["norm.weight"]}, "1 tensors are not in the network (other)"),
        (
            lambda w: {**w, "norm.weight": w["norm.weight"][:2]},
            "norm.weight has shape (2,), the network needs (4,): build the network that was",
        ),
        (lambda w: {"epoch": 3, "lr": 0.1}, "holds a mapping with keys epoch, lr, no weights"),
        (lambda w: [1, 2], "holds list, no weights: save model.state_dict()"),
        (lambda w: {}, "no weights"),
    ],
)
def test_weights_that_do_not_fit(
    wrap: Callable[[dict[str, Any]], Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        load_subject(str(saved(tmp_path, wrap)), CONSTRUCTOR)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors", "w.npz", "w.pt2"])
def test_files_that_are_none(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"this is no file of weights at all")
    with pytest.raises(InputError, match=f"{name} .*(is no|cannot be read as)"):
        load_subject(str(tmp_path / name), CONSTRUCTOR)
    with pytest.raises(InputError, match="no such file or folder"):
        load_subject(str(tmp_path / f"not-{name}"), CONSTRUCTOR)


@pytest.mark.parametrize(
    ("constructor", "arguments", "message"),
    [
        ("made_networks", {}, "write package.module:function"),
        ("no_such_module:f", {}, "No module named 'no_such_module'"),
        ("made_networks:forein", {}, "made_networks has no 'forein': did you mean 'foreign'?"),
        ("made_networks:MEAN_STD", {}, "is no function"),
        ("made_networks:labels", {"n": 3}, "returned ndarray, no torch.nn.Module"),
        ("made_networks:foreign", {"color": 1}, "give its arguments by --argument key=value"),
    ],
)
def test_constructors_that_fail(
    constructor: str, arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    how = How(constructor=constructor, arguments=arguments)
    with pytest.raises(InputError) as caught:
        load_subject(str(saved(tmp_path, lambda w: w)), how)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"constructor": "made_networks:foreign", "model": "mlp"}, "leave one of the two out"),
        ({"constructor": "made_networks:foreign", "width": 3}, "--width 3 is of --model"),
    ],
)
def test_options_that_would_be_ignored(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        load_subject(str(saved(tmp_path, lambda w: w)), How(**options, **MEAN_STD))


def test_a_constructor_in_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_own_net.py").write_text(
        "import made_networks\nclass Nets:\n    net = made_networks.Foreign\n"
    )
    monkeypatch.chdir(tmp_path)
    how = How(constructor="my_own_net:Nets.net")
    assert load_subject(str(saved(tmp_path, lambda w: w)), how).module.entry.out_channels == 4


def test_a_network_of_lowland_by_name(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create("preact-resnet-small", shape=(3, 8, 8), classes=3, width=4)
    torch.save(model.state_dict(), tmp_path / "w.pt")
    how = How(model="preact-resnet-small", width=4, **MEAN_STD)
    with pytest.raises(InputError, match="is built to fit its images: give --size or --data"):
        load_subject(str(tmp_path / "w.pt"), how)
    record = inspected(tmp_path / "w.pt", data=array_data(tmp_path), how=how, what="rank,loss")
    assert list(record["subjects"][0]["blocks"]) == ["block1", "block2", "block3"]
    assert record["subjects"][0]["model"]["loss"]["n"] == 21
    with pytest.raises(InputError, match="say what network they are of, by --constructor"):
        load_subject(str(tmp_path / "w.pt"))
    with pytest.raises(InputError, match=r"no head\.weight, so it is of no network of lowland"):
        load_subject(str(saved(tmp_path, lambda w: w)), How(model="mlp", size=(8, 8)))


def test_a_vision_transformer_checkpoint(tmp_path: Path) -> None:
    """Class tokens of the residual stream, against the formulas: rank and dimension."""
    arrays = vit_arrays(size=8, depth=2)
    np.savez(tmp_path / "vit.npz", **arrays)
    data = array_data(tmp_path, n=30)
    images = pixels(30).astype(np.float64) / 127.5 - 1
    stream, _ = vit_forward(arrays, images)
    record = inspected(tmp_path / "vit.npz", data=data, what="rank,active,loss")
    blocks = record["subjects"][0]["blocks"]
    assert record["subjects"][0]["capturing"] == {"tokens": "class"}
    for number, expected in enumerate(stream, start=1):
        found = blocks[f"block{number}"]
        tokens = expected[:, 0] - expected[:, 0].mean(0)
        energies = np.linalg.svd(tokens, compute_uv=False) ** 2
        np.testing.assert_allclose(found["rank"]["spectrum"], energies, rtol=1e-4)
        assert found["rank"]["dimension"] == 6
        limit = 0.05 * expected[:, 0].max()
        assert found["active"]["value"] == (expected[:, 0] > limit).any(0).sum()


def test_a_mixer_checkpoint_takes_the_mean_token_or_the_first_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "mixer.npz", **mixer_arrays(size=8))
    data = array_data(tmp_path, n=30)
    own = inspected(tmp_path / "mixer.npz", data=data)["subjects"][0]
    first = inspected(tmp_path / "mixer.npz", data=data, tokens="class")["subjects"][0]
    assert (own["capturing"], first["capturing"]) == ({"tokens": "mean"}, {"tokens": "class"})
    one, other = (s["blocks"]["block2"]["rank"]["spectrum"] for s in (own, first))
    assert not np.allclose(one, other)
    with pytest.raises(InputError, match="a Mixer takes images of one size, here 8"):
        load_subject(str(tmp_path / "mixer.npz"), How(size=(16, 16)))


def test_a_run_directory_brings_its_data_and_normalisation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(
        model="mlp", width=8, limit=60, batch_size=20, epochs=1, evaluations=1,
        rank_examples=60, device="cpu", rank_block="block2",
    )  # fmt: skip
    folder = run(recipe, tmp_path)
    subject = load_subject(str(folder))
    data = load("digits", limit=60)
    read = data.train.images
    assert subject.preprocessing is not None
    made = torch.stack([subject.preprocessing(image, 16.0) for image in read])
    assert torch.equal(made, data.normalise(read))
    record = inspected(folder, what="rank,loss,weight-norm", examples=60)
    last = read_history(folder / HISTORY)[-1]
    found = record["subjects"][0]
    assert found["blocks"]["block2"]["rank"]["value"] == last["rank/train/block2/unit/0.99"]
    assert found["model"]["loss"]["value"] == pytest.approx(last["train/loss"], rel=1e-6)
    assert found["model"]["weight-norm"]["value"] == pytest.approx(last["weight-norm"], rel=1e-6)
    assert record["data"]["split"] == "train"
    assert found["facts"]["recipe"]["limit"] == 60
    monkeypatch.setattr("lowland.inspection.files.load", lambda *a, **k: load("digits", limit=70))
    with pytest.raises(InputError, match=r"data digits is no longer what .* was trained on"):
        inspected(folder)
    monkeypatch.undo()
    test = inspected(folder, what="loss", split="test")
    assert test["subjects"][0]["model"]["loss"]["value"] == pytest.approx(
        last["test/loss"], rel=1e-6
    )


def test_folders_that_are_no_runs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no run\.json: give a run directory"):
        load_subject(str(tmp_path))
    (tmp_path / "runs").mkdir()
    with pytest.raises(InputError, match="is the folder of a study: give one of its runs"):
        load_subject(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match=f"write hf:{tmp_path}"):
        load_subject(str(tmp_path))
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(InputError, match="is not a run of lowland"):
        load_subject(str(tmp_path))


def test_features_of_a_foreign_network_are_its_own(tmp_path: Path) -> None:
    """The spectrum in the record against a forward pass by hand."""
    path = saved(tmp_path, lambda w: w)
    record = inspected(path, data=array_data(tmp_path), how=CONSTRUCTOR, what="rank,loss")
    model = foreign().double()
    x = model.norm(model.entry(inputs()))
    for number, stage in enumerate(model.stages):
        x = stage(x)
        features = x.flatten(1).detach()
        energies = torch.linalg.svdvals(features - features.mean(0)) ** 2
        found = record["subjects"][0]["blocks"][f"stages.{number}"]["rank"]
        np.testing.assert_allclose(found["spectrum"][:20], energies[:20], rtol=1e-3)
    assert record["data"]["n"] == 21
