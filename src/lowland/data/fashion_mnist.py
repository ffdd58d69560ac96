"""Fashion-MNIST, or any set of images in the same four IDX files."""

from __future__ import annotations

from pathlib import Path

import torch

from lowland.core.errors import InputError
from lowland.data.idx import read_idx
from lowland.data.images import ImageData, Split, assemble
from lowland.data.split import hold_out

DEFAULT_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts the files."""

_HELD_OUT = 0.1


def read_fashion_mnist(name: str, seed: int) -> ImageData:
    """Train and test as in the files; a stratified 10% of train is held out for validation.

    `name` is ``fashion-mnist`` or ``fashion-mnist:FOLDER``. The folder holds
    ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and the same for ``t10k``, plain or
    with ``.gz``. The number of classes is that of the labels, so MNIST and its other relatives
    load too; hence the augmentation does not mirror, which would turn one digit into another.
    A row is counted through train, then test.

    Source: H. Xiao et al., Fashion-MNIST, 2017 (arXiv 1708.07747).
    """
    _, separator, folder = name.partition(":")
    if separator and not folder:
        raise InputError("data set 'fashion-mnist:' lacks its folder: fashion-mnist:FOLDER")
    root = Path(folder).expanduser() if folder else DEFAULT_FOLDER
    digests: dict[str, str] = {}
    whole = _read_pair(root, "train", digests, first_row=0)
    test = _read_pair(root, "t10k", digests, first_row=len(whole))
    kept, held = hold_out(whole.labels, _HELD_OUT, seed=seed, name=name)
    return assemble(
        name,
        train=whole.select(kept),
        validation=whole.select(held),
        test=test,
        augmentation="shift",
        source={
            "sha256": digests,
            "rule": f"test from the files; stratified: {_HELD_OUT:.0%} of train validation",
            "split_seed": seed,
        },
    )


def _read_pair(root: Path, part: str, digests: dict[str, str], *, first_row: int) -> Split:
    images_path = _find(root, f"{part}-images-idx3-ubyte")
    labels_path = _find(root, f"{part}-labels-idx1-ubyte")
    images, digests[images_path.name] = read_idx(images_path, dimensions=3)
    labels, digests[labels_path.name] = read_idx(labels_path, dimensions=1)
    if len(images) != len(labels):
        raise InputError(
            f"{labels_path} has {len(labels)} labels for the {len(images)} images of "
            f"{images_path.name}: fetch both files again"
        )
    rows = torch.arange(first_row, first_row + len(labels))
    return Split(torch.tensor(images)[:, None], torch.tensor(labels).long(), rows)


def _find(root: Path, stem: str) -> Path:
    for path in (root / stem, root / f"{stem}.gz"):
        if path.is_file():
            return path
    raise InputError(
        f"{root} has no {stem} or {stem}.gz: install the Debian package dataset-fashion-mnist, "
        "or name the folder: fashion-mnist:FOLDER"
    )
