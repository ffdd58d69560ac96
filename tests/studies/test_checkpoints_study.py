"""Public checkpoints in their layout, from files to the published table beside what was found."""

from __future__ import annotations

import json
import shutil
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_checkpoints import MIXER, VITS, write_checkpoints, write_images
from made_launcher import Here

from lowland.core.errors import InputError
from lowland.data import open_examples
from lowland.measure import feature_rank
from lowland.models import from_arrays
from lowland.studies.checkpoints import STUDY
from lowland.studies.checkpoints.columns import rank
from lowland.studies.checkpoints.published import ARCHITECTURES, RELEASED, SHARES
from lowland.studies.checkpoints.readings import ranks
from lowland.studies.runner import execute
from lowland.studies.study import Plan


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``checkpoints`` and ``images``; tests that change a file work on a copy."""
    folder = tmp_path_factory.mktemp("public")
    write_checkpoints(folder / "checkpoints")
    write_images(folder / "images")
    return folder


def planned(*overrides: str, data: str | None = None, size: str = "smoke") -> Plan:
    choice = STUDY.choose(size=size, data=data, overrides=overrides)
    STUDY.check(choice)
    return STUDY.plan(choice)


def executed(out: Path, *overrides: str, data: str | None = None) -> dict[str, Any]:
    choice = STUDY.choose(size="smoke", data=data, overrides=overrides)
    return execute(STUDY, choice, out, launcher=Here())


def measured(checkpoint: Path, place: Path, **changes: Any) -> dict[str, Any]:
    """The row of one checkpoint."""
    settings: dict[str, Any] = {
        "checkpoint": str(checkpoint),
        "stamp": "",
        "data": f"imagefolder:{place / 'images'}",
        "pictures": "",
        "examples": 20,
        "batch_size": 7,
        **changes,
    }
    (row,) = ranks(seed=0, rho=0.0, **settings)
    return dict(row)


def test_the_published_table() -> None:
    """Every number of Table 1, in its order: ViT-B/16, B/32, L/16, the second L, Mixer-B/16."""
    table = [[a.ranks[share][i] for a in ARCHITECTURES] for share in SHARES for i in (0, 1)]
    assert table == [
        [680, 672, 903, 898, 695],
        [617, 654, 820, 844, 620],
        [467, 484, 595, 595, 301],
        [426, 440, 314, 442, 477],
        [412, 390, 387, 469, 425],
        [346, 362, 250, 318, 369],
    ]
    assert [a.token for a in ARCHITECTURES] == ["class"] * 4 + ["mean"]
    assert [share * 24 for share in RELEASED.values()] == [16, 8]


@pytest.mark.parametrize("name", [VITS[0], MIXER])
@torch.no_grad()
def test_ranks_are_of_the_stream_before_the_final_norm(name: str, place: Path) -> None:
    """By hand: images squashed to the size in the file, in [-1, 1], the first of each class first.

    64 images of 6 classes would be 11 of each; here 20 of 3 are 7, 7 and 6.
    """
    path = place / "checkpoints" / "standard" / f"{name}.npz"
    row = measured(path, place)
    examples = open_examples(f"imagefolder:{place / 'images'}").first(20)
    assert examples.labels is not None
    assert examples.labels[:6].tolist() == [0, 1, 2, 0, 1, 2]
    model, facts = from_arrays(dict(np.load(path)))
    inputs = torch.stack(
        [
            torch.nn.functional.interpolate(
                examples.read(i)[None].float(),
                size=(facts["size"], facts["size"]),
                mode="bilinear",
                antialias=True,
            )[0].clamp(0, 255)
            / 127.5
            - 1
            for i in range(20)
        ]
    )
    x, streams = inputs, []
    for child_name, child in model.named_children():
        x = child(x)
        if child_name.startswith("block"):
            streams.append(x)
    assert row["blocks"] == len(streams) == 4
    assert (row["images"], row["size"], row["width"], row["classes"]) == (20, facts["size"], 8, 5)
    for share, block in zip(SHARES, (3, 2, 1), strict=True):
        tokens = {"class": streams[block][:, 0]}
        if name == MIXER:
            tokens["mean"] = streams[block].mean(1)
        for token, features in tokens.items():
            for variance in (0.99, 0.95, 0.999):
                expected = feature_rank(features, variance).value
                assert row[rank(share, token, f"unit/{variance:g}")] == expected
            expected = feature_rank(features, 0.99, "example", rule="published").value
            assert row[rank(share, token, "published/0.99")] == expected
    assert not any("after 2/3" in column for column in row)  # four blocks have none there


def test_released_layers_where_there_are_such(place: Path, tmp_path: Path) -> None:
    deep = write_checkpoints(tmp_path / "deep", depth=12)
    row = measured(deep / "sam" / "ViT-L_16.npz", place)
    assert {"rank/after 2/3/class/unit/0.99", "rank/after 1/3/class/unit/0.99"} <= set(row)


def test_all_ten_end_in_the_table(place: Path, tmp_path: Path) -> None:
    results = executed(
        tmp_path / "out",
        f"checkpoints={place / 'checkpoints'}",
        "examples=16",
        data=f"imagefolder:{place / 'images'}",
    )
    assert results["failures"] == []
    words = {claim["name"]: (claim["verdict"], claim["n"]) for claim in results["claims"]}
    assert words["mixer-exception"] == ("cannot tell", 1)  # one pair is never a result
    assert {name: n for name, (_, n) in words.items()} == {
        "rank-falls-after-last": 5,
        "rank-falls-after-three-quarters": 4,
        "rank-falls-after-half": 5,
        "rank-falls-everywhere": 5,
        "mixer-exception": 1,
    }
    table, networks = results["tables"]
    assert len(table["rows"]) == 5 * 5
    by_hand = measured(place / "checkpoints" / "sam" / f"{MIXER}.npz", place, examples=16)
    row = next(r for r in table["rows"] if r[:2] == ["Mixer-B/16", "3/4"])
    assert row[2] == "301 → 477 +58%"
    assert f"→ {by_hand['rank/after 3/4/mean/unit/0.99']} " in row[3]
    assert f"→ {by_hand['rank/after 3/4/mean/published/0.99']} " in row[4]
    assert [r[4] for r in networks["rows"]] == [16, 12] * 4 + [12, 12]
    falls = next(c for c in results["claims"] if c["name"] == "rank-falls-after-last")
    labels = {b["label"]: b["estimate"] for b in falls["beside"]}
    assert labels["the published numbers"] == pytest.approx(
        np.mean([63 / 680, 18 / 672, 83 / 903, 54 / 898, 75 / 695])
    )
    assert any("not matched" in note for note in results["notes"])


def test_nothing_given_is_no_data_and_the_published_table(tmp_path: Path) -> None:
    results = executed(tmp_path / "out")
    assert {claim["verdict"] for claim in results["claims"]} == {"no data here"}
    table, networks = results["tables"]
    assert table["rows"][0] == ["ViT-B/16", "last", "680 → 617 -9%", None, None]
    assert {row[2] for row in networks["rows"]} == {"no data here"}


def test_a_missing_checkpoint_is_its_row_alone(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "checkpoints", tmp_path / "some")
    (tmp_path / "some" / "sam" / "ViT-B_32.npz").unlink()
    plan = planned(f"checkpoints={tmp_path / 'some'}", data=f"imagefolder:{place / 'images'}")
    assert sorted((p.group, p.recipe.seed) for p in plan.runs[1:]) == [
        ("sam", 0), ("sam", 2), ("sam", 3), ("sam", 4), *(("standard", i) for i in range(5))
    ]  # fmt: skip


def broken(folder: Path, name: str, key: str, how: str) -> None:
    """Damage one array of a checkpoint."""
    arrays = dict(np.load(folder / name))
    array = arrays.pop(key)
    if how == "transposed":
        arrays[key] = array.T
    np.savez(folder / name, **arrays)


def test_bad_files_are_named_and_the_rest_is_kept(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "checkpoints", tmp_path / "bad")
    sam = tmp_path / "bad" / "sam"
    for name in VITS[2:]:
        (sam / f"{name}.npz").unlink()
        (tmp_path / "bad" / "standard" / f"{name}.npz").unlink()
    mlp = "Transformer/encoderblock_1/MlpBlock_3/Dense_0/kernel"
    broken(sam, "ViT-B_16.npz", mlp, "missing")
    broken(sam, "ViT-B_32.npz", mlp, "transposed")
    (sam / f"{MIXER}.npz").write_bytes(b"not a zip file")
    results = executed(
        tmp_path / "out",
        f"checkpoints={tmp_path / 'bad'}",
        "examples=8",
        data=f"imagefolder:{place / 'images'}",
    )
    failures = {f["seed"]: f["error"] for f in results["failures"]}
    assert set(failures) == {0, 1, 4}
    assert "ViT-B_16.npz: 1 arrays are missing, first 'block2.mlp.widen.weight'" in failures[0]
    assert "ViT-B_32.npz" in failures[1]
    assert "block2.mlp.widen" in failures[1]
    assert MIXER in failures[4]
    assert not any("\n" in error for error in failures.values())
    # what can be measured is in the table: the standard networks
    table = results["tables"][0]["rows"]
    ends = [row[3] for row in table if row[1] == "last"]
    assert ends[2:4] == [None, None]
    assert all(ends[place].endswith(" → –") for place in (0, 1, 4))
    assert {claim["verdict"] for claim in results["claims"]} == {"no data here"}
    # mended, the same folder goes on
    shutil.copy(place / "checkpoints" / "sam" / "ViT-B_16.npz", sam / "ViT-B_16.npz")
    for name in ("ViT-B_32", MIXER):
        (sam / f"{name}.npz").unlink()
    results = executed(
        tmp_path / "out",
        f"checkpoints={tmp_path / 'bad'}",
        "examples=8",
        data=f"imagefolder:{place / 'images'}",
    )
    assert results["failures"] == []
    assert results["tables"][0]["rows"][0][3].endswith("%")


@pytest.mark.parametrize(
    ("overrides", "data", "message"),
    [
        (("checkpoints=nowhere",), "images", "nowhere: no such folder: give one with standard/"),
        (("checkpoints={images}",), "images", "holds none of the ten checkpoints"),
        (("checkpoints={checkpoints}",), None, "give --data imagefolder:PATH"),
        (("checkpoints={checkpoints}",), "missing", "no such folder: imagefolder:FOLDER"),
        (("checkpoint=x",), "images", "checkpoints"),
        (("sam.ViT-B_61=x",), "images", "sam.ViT-B_16"),
        (("examples=many",), "images", "examples must be a whole number, 1 or more, not 'many'"),
        (("examples=0",), "images", "examples must be a whole number"),
        (("checkpoints=",), "images", "write checkpoints=VALUE"),
        (("checkpoints={checkpoints}", "device=cudo"), "images", "cuda"),
    ],
)
def test_what_cannot_be_is_one_line(
    overrides: tuple[str, ...], data: str | None, message: str, place: Path
) -> None:
    names = {name: str(place / name) for name in ("images", "checkpoints")}
    given = None if data is None else f"imagefolder:{place / data}"
    with pytest.raises(InputError) as refusal:
        planned(*(o.format(**names) for o in overrides), data=given)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_two_files_for_one_place_are_refused(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "checkpoints", tmp_path / "both")
    shutil.copytree(place / "checkpoints" / "standard", tmp_path / "both" / "imagenet1k")
    with pytest.raises(InputError, match="are both there"):
        planned(f"checkpoints={tmp_path / 'both'}", data=f"imagefolder:{place / 'images'}")


def test_the_names_of_the_buckets_will_do(place: Path, tmp_path: Path) -> None:
    for bucket, names in (("imagenet21k+imagenet2012", VITS), ("imagenet1k", (MIXER,))):
        (tmp_path / "gs" / bucket).mkdir(parents=True)
        for name in names:
            source = place / "checkpoints" / "standard" / f"{name}.npz"
            shutil.copy(source, tmp_path / "gs" / bucket)
    plan = planned(f"checkpoints={tmp_path / 'gs'}", data=f"imagefolder:{place / 'images'}")
    assert [(p.group, p.recipe.seed) for p in plan.runs[1:]] == [("standard", i) for i in range(5)]


def test_single_names_go_before_the_folder(place: Path) -> None:
    plan = planned(
        f"checkpoints={place / 'checkpoints'}",
        "sam.ViT-B_16=timm:vit_base_patch16_224.sam_in1k",
        data=f"imagefolder:{place / 'images'}",
    )
    recipe = next(p.recipe for p in plan.runs if (p.group, p.recipe.seed) == ("sam", 0))
    settings = recipe.to_dict()["settings"]
    assert settings["checkpoint"] == "timm:vit_base_patch16_224.sam_in1k"


def test_networks_without_the_block_are_refused(place: Path, tmp_path: Path) -> None:
    odd = write_checkpoints(tmp_path / "odd", depth=3)
    with pytest.raises(InputError, match="3 blocks has no block after 3/4 of them"):
        measured(odd / "sam" / "ViT-B_16.npz", place)
    parts = OrderedDict(stem=torch.nn.Linear(48, 4), body=torch.nn.Linear(4, 2))
    torch.jit.save(torch.jit.script(torch.nn.Sequential(parts)), str(tmp_path / "flat.pt"))
    with pytest.raises(InputError, match=r"flat\.pt has no numbered blocks \(it has stem, body\)"):
        measured(tmp_path / "flat.pt", place)
    parts = OrderedDict((f"block{i}", torch.nn.Linear(4, 4)) for i in range(1, 5))
    torch.jit.save(torch.jit.script(torch.nn.Sequential(parts)), str(tmp_path / "four.pt"))
    with pytest.raises(InputError, match=r"nothing says how images for .*four\.pt are made"):
        measured(tmp_path / "four.pt", place)


def test_another_file_of_the_same_name_is_another_run(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "checkpoints", tmp_path / "same")
    data = f"imagefolder:{place / 'images'}"
    before = planned(f"checkpoints={tmp_path / 'same'}", data=data)
    path = tmp_path / "same" / "sam" / "ViT-B_16.npz"
    shutil.copy(place / "checkpoints" / "sam" / "ViT-L_16.npz", path)
    after = planned(f"checkpoints={tmp_path / 'same'}", data=data)
    changed = [a.group for a, b in zip(before.runs, after.runs, strict=True) if a != b]
    assert changed == ["sam"]
    assert json.dumps(after.runs[1].recipe.to_dict())  # plain values


def test_published_size() -> None:
    assert planned(size="paper").runs[0].recipe.to_dict()["settings"]["images"] == 0
    assert "12,800" in STUDY.sizes["paper"]


def test_what_is_said_of_the_published_table_follows_from_it() -> None:
    """672 -> 654 of ViT-B/32 is the smallest fall, 2.7%, and 301 -> 477 the only rise, 58%."""
    falls = {
        (a.name, share): 1 - sam / standard
        for a in ARCHITECTURES
        for share, (standard, sam) in a.ranks.items()
    }
    (exception,) = [place for place, fall in falls.items() if fall < 0]
    assert exception[0] == "Mixer-B/16"
    said = {claim.name: claim.published for claim in planned().claims}
    assert f"{-falls.pop(exception):+.0%}" in said["mixer-exception"]
    assert f"by {min(falls.values()):.1%} at least" in said["rank-falls-everywhere"]
    for share, name in zip(SHARES, ("last", "three-quarters", "half"), strict=True):
        for a in ARCHITECTURES:
            pair = "{} → {} ({})".format(*a.ranks[share], a.name)
            mixers = a.name.startswith("Mixer") and name == "three-quarters"
            assert (pair in said[f"rank-falls-after-{name}"]) != mixers
