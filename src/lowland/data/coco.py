"""MS-COCO captions in the layout in which they are distributed.

    FOLDER/annotations/captions_train2014.json    and captions_val2014.json, or 2017
    FOLDER/train2014/COCO_train2014_000000000009.jpg
    FOLDER/val2014/...

The val images are the test; a tenth of the train images is held out for validation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lowland.core.errors import InputError
from lowland.core.files import read_json
from lowland.data.files import read_source
from lowland.data.pairs import Pairs, check_captions
from lowland.data.pairs_parquet import PairRequest, built
from lowland.data.sized import Lazy

YEARS = ("2014", "2017")


def read_coco(request: PairRequest) -> Pairs:
    """Pairs of ``coco:FOLDER``, images in the order of the annotations, captions likewise.

    Raises:
        InputError: a missing folder, file or image, a caption of an image that is not listed, or
            an image without captions.
    """
    for key in ("image_column", "caption_column"):
        if getattr(request, key) is not None:
            raise InputError(f"{request.name} has no columns: leave {key} out")
    folder = Path(request.location).expanduser()
    year = _year(folder)
    paths: list[Path] = []
    captions: list[list[Any]] = []
    marks: list[str] = []
    digests = {}
    for part in ("train", "val"):
        file = folder / "annotations" / f"captions_{part}{year}.json"
        files, texts = _annotated(file, read_json(file, "captions"))
        check_captions(str(file), files, texts)
        paths += [folder / f"{part}{year}" / name for name in files]
        captions += texts
        marks += [part] * len(files)
        digests[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    _check_there(paths)
    encoded = Lazy(lambda row: _image(paths[row]), len(paths))
    return built(request, str(folder), encoded, captions, marks, {"sha256": digests})


def _year(folder: Path) -> str:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder: name the one that has annotations/ in it")
    for year in YEARS:
        if (folder / "annotations" / f"captions_train{year}.json").exists():
            return year
    raise InputError(
        f"{folder} has no annotations/captions_train2014.json (or 2017): fetch COCO's captions, "
        "and keep the layout that they come in"
    )


def _annotated(file: Path, content: Any) -> tuple[list[str], list[list[Any]]]:
    """Names of the image files, and for each its captions."""
    if not isinstance(content, Mapping) or not {"images", "annotations"} <= set(content):
        raise InputError(f"{file} has no lists 'images' and 'annotations': it is not COCO's")
    try:
        names = {entry["id"]: str(entry["file_name"]) for entry in content["images"]}
        of_image: dict[Any, list[Any]] = {key: [] for key in names}
        for entry in content["annotations"]:
            if entry["image_id"] not in names:
                raise InputError(
                    f"{file}: caption {entry.get('id')} belongs to image {entry['image_id']}, "
                    "which is not among the images: fetch the file again"
                )
            of_image[entry["image_id"]].append(entry["caption"])
    except (KeyError, TypeError) as error:
        raise InputError(f"{file}: an entry lacks {error}: it is not COCO's") from None
    return list(names.values()), list(of_image.values())


def _check_there(paths: Sequence[Path]) -> None:
    """Miss images now, not after minutes of decoding."""
    if missing := next((path for path in paths if not path.is_file()), None):
        _image(missing)


def _image(path: Path) -> bytes:
    return read_source(path, "unpack COCO's images there")[0]
