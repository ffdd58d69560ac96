"""What is read off networks that recipes trained on data that were found."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from made_runs import make_runs
from torch import Tensor

from lowland import InputError
from lowland.data import ImageData, Split, decorrelated, load
from lowland.data.images import assemble
from lowland.measure import linear_probe
from lowland.studies.balance import STUDY, columns, readings
from lowland.studies.balance.columns import GIVEN, Setting, Setup, group_of
from lowland.studies.balance.findings import worst_group
from lowland.studies.balance.networks import Network, initialised, mlp
from lowland.studies.balance.probing import Probed
from lowland.studies.balance.readings import read
from lowland.studies.runs import Runs
from lowland.train import Recipe
from lowland.train.reading import Trained

GROUPS = {"train": (60, 6, 6, 60), "validation": (20, 8, 8, 20), "test": (80, 8, 8, 80)}
"""Images with (hard, easy) = (0, 0), (0, 1), (1, 0), (1, 1)."""


def part(name: str, first: int) -> Split:
    counts = torch.tensor(GROUPS[name])
    joint = torch.repeat_interleave(torch.arange(4), counts)
    hard, easy = joint // 2, joint % 2
    draws = torch.Generator().manual_seed(first)
    images = torch.randint(0, 200, (len(joint), 1, 4, 4), generator=draws)
    images[:, 0, 0, 0] = 90 + 70 * easy + torch.randint(0, 20, (len(joint),), generator=draws)
    images[:, 0, 1, 1] = 60 * hard + torch.randint(0, 90, (len(joint),), generator=draws)
    rows = torch.arange(first, first + len(joint))
    return Split(images.to(torch.uint8), hard, rows, {"bird": hard, "place": easy})


@pytest.fixture(scope="module")
def found() -> ImageData:
    """As Waterbirds is: groups are not equally often in the test images."""
    splits = {name: part(name, 1000 * i) for i, name in enumerate(GROUPS)}
    source = {"core": "bird", "spurious": "place"}
    return assemble("found", **splits, augmentation="none", source=source)


def trained(data: ImageData) -> Trained:
    module = initialised(lambda: mlp(data.shape, 2, 12), 0).eval()
    return Trained(module=module, data=data, recipe=Recipe(), folder=Path(), device="cpu")


def seen(module: Network, data: ImageData, split: Split) -> Tensor:
    return module.features(data.normalise(split.images)).detach()


def test_errors_are_means_over_groups(found: ImageData) -> None:
    of = trained(found)
    assert isinstance(of.module, Network)
    row = read(of)
    fit, test = decorrelated(found), found.test
    arguments = (seen(of.module, found, fit), fit.labels, seen(of.module, found, test), test.labels)
    probe = linear_probe(*arguments, C=1.0, tolerance=1e-3)
    wrong = (probe.predict(arguments[2]) != test.labels).double()
    ends = torch.tensor(GROUPS["test"]).cumsum(0).tolist()
    groups = [
        float(wrong[end - n : end].mean()) for n, end in zip(GROUPS["test"], ends, strict=True)
    ]
    assert row[columns.HARD] == pytest.approx(sum(groups) / 4)
    assert abs(sum(groups) / 4 - probe.value) > 0.01, "or the test could not tell"
    guessed = of.module(found.normalise(test.images)).argmax(-1) != test.labels
    worst = [
        guessed[end - n : end].double().mean() for n, end in zip(GROUPS["test"], ends, strict=True)
    ]
    assert row[columns.WORST] == pytest.approx(float(max(worst)))


def test_the_oracle_looks_at_no_image_that_a_probe_was_fitted_to(found: ImageData) -> None:
    """Of data that were found the balanced draw is of the validation images."""
    row = read(trained(found))
    assert columns.ORACLE_PROBE not in row
    assert columns.ORACLE_WORST in row


def test_the_oracle_has_dominoes_of_validation_in_equal_groups(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Even where the easy half tells every label of the validation images."""
    data = load("digit-dominoes:correlation=1")
    looked: list[Split] = []
    look = readings._look

    def recorded(of: Trained, split: Split) -> tuple[Probed, Tensor]:
        looked.append(split)
        return look(of, split)

    monkeypatch.setattr(readings, "_look", recorded)
    monkeypatch.setattr(readings, "sharpness_of", lambda *_: None)
    monkeypatch.setattr("lowland.studies.balance.evaluation.dfr_error", lambda *_: 0.0)
    assert columns.ORACLE_PROBE in read(trained(data))
    fitted, test, oracle = looked
    for split in (fitted, test, oracle):
        joint = 2 * split.labels + split.annotations["easy"]
        assert len(set(joint.bincount(minlength=4).tolist())) == 1
    halves = [
        {half.numpy().tobytes() for half in split.images.chunk(2, dim=2)[1]}
        for split in (data.validation, oracle, fitted)
    ]
    assert halves[1] <= halves[0]
    assert not halves[1] & halves[2]


def test_too_few_images_to_fit_probes_to_are_refused_before_training(
    found: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be said after all the training otherwise."""
    few = found.validation.select(torch.tensor([*range(20), *range(20, 24), *range(28, 56)]))
    small = assemble(
        "found",
        **{**found.splits, "validation": few},
        augmentation="none",
        source=found.source,
    )
    given = {False: small, True: found}
    for enough, data in given.items():
        monkeypatch.setattr("lowland.data.load", lambda name, data=data, **_: data)
        choice = STUDY.choose(size="smoke", data="waterbirds:nowhere")
        if enough:
            assert STUDY.plan(choice).runs
            continue
        with pytest.raises(
            InputError, match="found has 4 images of the rarest combination of bird"
        ):
            STUDY.plan(choice)


@pytest.mark.parametrize(
    ("name", "label"), [(GIVEN, "all test images"), ("spurious 0.95", "the mean over groups")]
)
def test_an_average_is_called_what_it_is(name: str, label: str) -> None:
    setting = Setting(name, "")
    setup = Setup("waterbirds", {"resnet": "net"}, (setting,), None, False, 176)

    def values(rho: float, seed: int, step: int) -> dict[str, float]:
        names = ("VALIDATION", "VALIDATION_LOSS", "WORST", "TEST", "TRAIN", "ORACLE_WORST")
        return {getattr(columns, n): 0.3 - rho / 10 + 0.001 * seed for n in names}

    runs = Runs(make_runs(values, group=group_of("resnet", setting)))
    assert label in worst_group(runs, setup, "resnet", setting).beside
