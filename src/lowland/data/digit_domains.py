"""Digits in domains: coloured by their label, more or less often, or rotated."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowland.core.errors import InputError
from lowland.core.seeds import generator
from lowland.data.digits import read_digits
from lowland.data.domains import dealt, leave_one_out
from lowland.data.fashion_mnist import read_fashion_mnist
from lowland.data.images import ImageData, Split, joined
from lowland.data.settings import Form, Named, Setting, number, read_name
from lowland.data.sources import read_labelled

CORRELATIONS = {"0.9": 0.9, "0.8": 0.8, "0.1": 0.1}
"""Domains of coloured digits: how often the colour agrees with the label."""

ANGLES = ("0", "15", "30", "45", "60", "75")
"""Domains of rotated digits, in degrees."""

_COLOURS = {
    "test": Setting(words="0.9, 0.8 or 0.1", default="0.1"),
    "noise": Setting(words="SHARE", read=number(0.0, 0.5), default=0.25),
}
_ROTATIONS = {"test": Setting(words="DEGREES", default="75")}

COLORED_DIGITS = Form(kind="colored-digits", settings=_COLOURS)
COLORED_MNIST = Form(kind="colored-mnist", place="PATH", settings=_COLOURS)
ROTATED_DIGITS = Form(kind="rotated-digits", settings=_ROTATIONS)
ROTATED_MNIST = Form(kind="rotated-mnist", place="PATH", settings=_ROTATIONS)


def read_colored(name: str, seed: int) -> ImageData:
    """Digits of two classes whose colour goes with the label, most often: ``colored-digits``,
    ``colored-mnist:PATH``.

    The shape (annotation) is whether the digit is 5 or more. The label is the shape, wrong for a
    quarter of the images (``noise``). Images are red or green on black; the colour (annotation)
    agrees with the label, red with 0, in a share 0.9, 0.8 or 0.1 of a domain (annotation). Each
    digit is in one domain. So in the domains 0.9 and 0.8 the colour tells the label better than
    the shape can, and in 0.1 it misleads. All shares are exact, up to rounding. One domain is
    left out for testing (`leave_one_out`), 0.1 unless ``test`` says another.

    Source: arXiv 1907.02893; three domains of whole images as in DomainBed (arXiv 2007.01434).
    """
    named, grey, source = _read(name, (COLORED_DIGITS, COLORED_MNIST), seed)
    shape = (grey.labels >= 5).long()
    domain = dealt(grey.labels, len(CORRELATIONS), seed)
    draws = generator("cpu", "colours", seed)
    label = _flipped(shape, [domain, shape], named["noise"], draws)
    wrong = [1 - correlation for correlation in CORRELATIONS.values()]
    colour = label.clone()
    for place, share in enumerate(wrong):
        mine = (domain == place).nonzero().flatten()
        colour[mine] = _flipped(label[mine], [label[mine]], share, draws)
    images = torch.zeros(len(grey), 3, *grey.images.shape[2:], dtype=torch.uint8)
    images[torch.arange(len(grey)), colour] = grey.images[:, 0]
    noted = {"domain": domain, "colour": colour, "shape": shape}
    return leave_one_out(
        name,
        Split(images, label, grey.index, noted),
        list(CORRELATIONS),
        named["test"],
        augmentation="none",
        seed=seed,
        source={
            **source,
            "values": {"colour": ["red", "green"], "shape": ["0 to 4", "5 to 9"]},
            "label noise": named["noise"],
            "core": "shape",
            "spurious": "colour",
        },
    )


def read_rotated(name: str, seed: int) -> ImageData:
    """Digits turned anticlockwise by 0, 15, ... 75 degrees: ``rotated-digits``,
    ``rotated-mnist:PATH``.

    The angle is the domain (annotation), each digit is in one, and one is left out for testing
    (`leave_one_out`), 75 unless ``test`` says another. Bilinear, black moving in.

    Source: arXiv 1508.07680; the domains as in DomainBed (arXiv 2007.01434).
    """
    named, grey, source = _read(name, (ROTATED_DIGITS, ROTATED_MNIST), seed)
    domain = dealt(grey.labels, len(ANGLES), seed)
    images = grey.images.clone()
    for place, angle in enumerate(ANGLES):
        mine = (domain == place).nonzero().flatten()
        images[mine, 0] = _turned(grey.images[mine, 0], float(angle))
    return leave_one_out(
        name,
        Split(images, grey.labels, grey.index, {"domain": domain}),
        ANGLES,
        named["test"],
        augmentation="none",
        seed=seed,
        source=source,
    )


def _read(name: str, forms: tuple[Form, Form], seed: int) -> tuple[Named, Split, dict[str, Any]]:
    """The settings, all digits in the order of their source, values 0 to 255, and its record."""
    own, mnist = forms
    if name.partition(":")[0] == own.kind:
        named = read_name(name, own)
        data = read_digits("digits", seed)
        parts, source = data.splits, data.source
    else:
        named = read_name(name, mnist)
        parts, source = read_labelled(named.place, read_fashion_mnist, range(10), seed)
        if (channels := parts["train"].images.shape[1]) != 1:
            raise InputError(
                f"{named.place} has images of {channels} channels: name files of grey digits"
            )
    together = joined(list(parts.values()))
    whole = together.select(together.index.argsort())
    if name.partition(":")[0] == own.kind:
        scaled = ((whole.images.int() * 255 + 8) // 16).to(torch.uint8)
        whole = Split(scaled, whole.labels, whole.index)
    return named, whole, {"sha256": source["sha256"]}


def _flipped(values: Tensor, within: list[Tensor], share: float, draws: torch.Generator) -> Tensor:
    """0 and 1 swapped in a share of the rows of each joint value of `within`."""
    changed = values.clone()
    groups = torch.unique(torch.stack(within, 1), dim=0, return_inverse=True)[1]
    for group in range(int(groups.max()) + 1):
        rows = (groups == group).nonzero().flatten()
        rows = rows[torch.randperm(len(rows), generator=draws)[: round(share * len(rows))]]
        changed[rows] = 1 - changed[rows]
    return changed


def _turned(images: Tensor, angle: float) -> Tensor:
    from PIL import Image

    turned = [
        np.asarray(Image.fromarray(image).rotate(angle, Image.Resampling.BILINEAR))
        for image in images.numpy()
    ]
    return torch.from_numpy(np.stack(turned))
