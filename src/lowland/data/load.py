"""One name for every data set."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from lowland.core.errors import InputError, unknown
from lowland.data.annotated import ANNOTATED
from lowland.data.arrays import read_arrays
from lowland.data.cifar import read_cifar
from lowland.data.class_folders import read_class_folders
from lowland.data.digits import read_digits
from lowland.data.fashion_mnist import read_fashion_mnist
from lowland.data.hub import read_hub
from lowland.data.images import ImageData
from lowland.data.parquet import read_parquet
from lowland.data.settings import places_in, read_name
from lowland.data.stamp import stamp

DATASETS = {
    "digits": "1,797 grey 8x8 digits from scikit-learn; no download",
    "fashion-mnist": "70,000 grey 28x28 images, from Debian's package dataset-fashion-mnist",
    "fashion-mnist:FOLDER": "the same four IDX files in another folder (MNIST works too)",
    "parquet:PATH": "encoded images and labels in a Parquet file",
    "npz:FILE": "images and labels as arrays of a NumPy file: x, y or x_train, y_train, ...",
    "imagefolder:FOLDER": "images of one size in folders by class; Tiny ImageNet's own layout too",
    "cifar:FOLDER": "CIFAR-10 or CIFAR-100 in the official files, python or binary version",
    "hf:NAME": "a data set of Hugging Face's library datasets, or of its hub",
    **{kind.form.example: kind.described for kind in ANNOTATED.values()},
}
"""Names that `load` accepts, and what they stand for."""

_READERS: dict[str, Callable[[str, int], ImageData]] = {
    "digits": read_digits,
    "fashion-mnist": read_fashion_mnist,
    "fashion-mnist:": read_fashion_mnist,
    "parquet:": read_parquet,
    "imagefolder:": read_class_folders,
    "cifar:": read_cifar,
    "npz:": read_arrays,
    "hf:": read_hub,
    **{name: kind.read for kind in ANNOTATED.values() for name in kind.form.beginnings},
}


def places(name: str) -> tuple[str, ...]:
    """The files and folders in the name of a data set.

    Raises:
        InputError: it has settings that do not fit.
    """
    kind, _, rest = name.partition(":")
    if kind in ANNOTATED:
        return places_in(name, ANNOTATED[kind].form)
    return (rest,) if rest and kind != "hf" else ()


def short_name(name: str) -> str:
    """A word for a data set, to name a folder by: no path, and the settings that it has.

    >>> short_name("parquet:a/pets.parquet"), short_name("digit-dominoes:correlation=1,easy=none")
    ('pets', 'digit-dominoes-correlation=1-easy=none')
    """
    kind, _, rest = name.partition(":")
    if kind not in ANNOTATED:
        return Path(rest).stem or kind
    form = ANNOTATED[kind].form
    named = read_name(name, form)
    given = [f"{k}={v}" for k, v in named.given.items() if not form.settings[k].place]
    place = [Path(named.place).stem] if named.place else []
    return "-".join([kind, *place, *given]).replace("/", "+")


def load(
    name: str,
    *,
    seed: int = 0,
    labels: Sequence[int] | None = None,
    limit: int | None = None,
    held_out: float | None = None,
) -> ImageData:
    """Load a data set by name.

    Args:
        name: one of `DATASETS`.
        seed: decides which rows are held out where the source has no such split. It is not the
            seed of a run: all runs that are compared use the same split.
        labels: keep only these classes (`ImageData.keep_labels`).
        limit: keep at most so many training images (`ImageData.first`), after `labels`.
        held_out: share of the training images to hold out for validation, in place of the data
            set's own split of train and validation (`ImageData.hold_out`); before `labels`.

    Raises:
        InputError: unknown name, missing, corrupt or foreign file, or unusable labels, limit or
            share.
    """
    kind, separator, _ = name.partition(":")
    if kind + separator not in _READERS:
        raise unknown("data set", name, DATASETS)
    try:
        stamp = _stamp(name)
        data = _read(name, seed, stamp) if stamp else _READERS[kind + separator](name, seed)
    except ModuleNotFoundError as error:
        extra = "hub" if error.name == "datasets" else "study"
        raise InputError(
            f"data set {name!r} needs {error.name}: pip install 'lowland[{extra}]'"
        ) from None
    if held_out is not None:
        data = data.hold_out(held_out, seed=seed)
    if labels is not None:
        data = data.keep_labels(labels)
    return data if limit is None else data.first(limit)


@functools.lru_cache(maxsize=2)  # what is trained on, and what features are tried on
def _read(name: str, seed: int, stamp: object) -> ImageData:
    """The data of a name, kept for the next call: a study asks for the same file many times."""
    kind, separator, _ = name.partition(":")
    return _READERS[kind + separator](name, seed)


def _stamp(name: str) -> object:
    """What changes when the files behind a name do."""
    kind, _, rest = name.partition(":")
    return stamp(places(name) if kind != "hf" else (rest.partition("@")[0],))
