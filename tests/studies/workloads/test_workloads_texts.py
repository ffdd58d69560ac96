"""Captions for the language model: vocabulary, what is asked, losses against torch's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from made_images import png
from torch.nn.functional import cross_entropy

from lowland.core.errors import InputError
from lowland.data.pairs import PairSplit
from lowland.models.words import SPECIAL, START, UNKNOWN
from lowland.studies.workloads import STUDY
from lowland.studies.workloads.experiment import network, runs
from lowland.studies.workloads.tasks import CaptionTask
from lowland.studies.workloads.texts import as_texts, common_words, read_captions, word_losses
from lowland.train.stack import Stack

CAPTIONS = (("a dog runs", "a dog"), ("The cat sleeps .",))


def split() -> PairSplit:
    return PairSplit(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), CAPTIONS, torch.arange(2))


def test_the_commonest_words_and_ties_by_the_alphabet() -> None:
    words = common_words(split(), 3)
    assert list(words.numbers) == [".", "a", "dog"]
    assert list(words.numbers.values()) == [SPECIAL, SPECIAL + 1, SPECIAL + 2]
    assert len(common_words(split(), 100).numbers) == 7
    with pytest.raises(InputError, match="words is 0"):
        common_words(split(), 0)


def test_what_is_read_and_what_is_asked() -> None:
    words = common_words(split(), 3)
    dot, a, dog = (words.numbers[word] for word in (".", "a", "dog"))
    texts = as_texts(CAPTIONS, words, length=3)
    assert texts.given.tolist()[0] == [START, a, dog]
    assert texts.wanted.tolist()[0] == [a, dog, UNKNOWN]
    assert texts.asked.tolist() == [[True, True, False], [True, True, False], [False] * 3]
    assert as_texts(CAPTIONS, words, length=4).wanted[2, 3] == dot  # cut off above
    with pytest.raises(InputError, match="no caption has a word"):
        as_texts((("zebra",),), words, length=3)


def test_losses_are_cross_entropies_of_the_words_asked_for() -> None:
    words = common_words(split(), 100)
    texts = as_texts(CAPTIONS, words, length=5)
    logits = torch.randn(2, 3, *texts.given.shape[1:], len(words))
    rows = torch.tensor([[0, 1, 2], [2, 1, 0]])
    found = word_losses(logits, texts, rows)
    for k in range(2):
        for place, row in enumerate(rows[k].tolist()):
            wanted = cross_entropy(logits[k, place], texts.wanted[row], reduction="none")
            torch.testing.assert_close(found[k, place], wanted * texts.asked[row])


def test_measures_are_means_over_words_and_the_loss_is_their_mean() -> None:
    pairs = read_captions("captions:digits-captions", limit=12)
    task = CaptionTask(pairs, words=1_000)
    stack = Stack([network(task, 4, seed) for seed in (0, 1)])
    found = task.measure(stack)
    for name, captions in (("train", pairs.train), ("validation", pairs.validation)):
        words = common_words(pairs.train, 1_000)
        texts = as_texts(captions.captions, words, 16)
        logits = stack(texts.given[:500])[1]
        asked, wanted = texts.asked[:500], texts.wanted[:500]
        loss = cross_entropy(logits[asked], wanted[asked])
        error = (logits.argmax(-1) != wanted)[asked].float().mean()
        torch.testing.assert_close(found[f"{name}/loss"][1], loss, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found[f"{name}/error"][1], error, rtol=1e-4, atol=1e-5)
    rows = task.labels.expand(2, -1)
    mean = task.loss(stack(task.inputs), rows).mean(1)
    torch.testing.assert_close(mean, found["train/loss"], rtol=1e-4, atol=1e-5)


def test_a_file_by_its_path_alone_and_no_image_in_two_splits(tmp_path: Path) -> None:
    path = tmp_path / "captions.parquet"
    write(path, [[f"image {i}", f"the picture {i}"] for i in range(20)])
    for name in (f"captions:{path}", f"captions:parquet:{path}"):
        pairs = read_captions(name)
        rows = [set(part.index.tolist()) for part in pairs.splits.values()]
        assert sum(map(len, rows)) == len(set.union(*rows)) == 20


def test_columns_with_names_of_their_own(tmp_path: Path) -> None:
    """What the message advises is there: in the study, in its runs, and in their names."""
    path = tmp_path / "captions.parquet"
    write(path, [[f"image {i}", f"the picture {i}"] for i in range(20)])
    read = pq.read_table(path)
    pq.write_table(read.rename_columns(["picture", "said"]), path)
    data, columns = f"captions:{path}", {"image_column": "picture", "caption_column": "said"}
    with pytest.raises(InputError, match="set image_column"):
        STUDY.plan(STUDY.choose(size="smoke", data=data))
    with pytest.raises(InputError, match="set caption_column"):
        read_captions(data, columns={"image_column": "picture"})
    sets = tuple(f"{key}={name}" for key, name in columns.items())
    plan = STUDY.plan(STUDY.choose(size="smoke", data=data, overrides=(*sets, "epochs=1")))
    settings = dict(plan.runs[0].recipe.settings)
    assert settings["caption_column"] == "said"
    rows = list(runs(seed=0, rho=0.0, **settings))
    assert rows[-1]["validation/loss"] > 0
    with pytest.raises(InputError, match="images have no captions: leave it out"):
        STUDY.plan(STUDY.choose(size="smoke", overrides=sets))


def test_files_that_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "captions.parquet"
    write(path, [["a word"]] * 9 + [[]])
    with pytest.raises(InputError, match="row 9 has no caption"):
        read_captions(f"captions:{path}")
    image = {"image": [png(np.zeros((8, 8, 3), dtype=np.uint8))] * 3}
    pq.write_table(pa.table(image), path)
    with pytest.raises(InputError, match="has no column 'captions'"):
        read_captions(f"captions:{path}")
    with pytest.raises(InputError, match="lacks its captions: write captions:FILE"):
        read_captions("captions:")
    with pytest.raises(InputError, match="unknown data set of pairs"):
        read_captions("captions:digits")


def write(path: Path, captions: list[list[str]]) -> None:
    images = [png(np.full((8, 8, 3), i, dtype=np.uint8)) for i in range(len(captions))]
    table = pa.table({"image": images, "captions": captions})
    pq.write_table(table, path)
