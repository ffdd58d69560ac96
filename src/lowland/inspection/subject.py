"""What is inspected: a network with all that is known of its inputs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from lowland.core.errors import InputError
from lowland.data import Examples, Preprocessing

Encode = Callable[[list[str]], dict[str, Any]]
"""Texts -> named inputs of the network, padded, with an attention mask."""

Shape = tuple[int, int, int]


@dataclass(frozen=True, eq=False, kw_only=True)
class Subject:
    """A network as it was loaded, in eval mode, in float32 unless it was stored otherwise.

    Attributes:
        name: what the user called it.
        kind: what it was loaded from, in words.
        module: the network; blocks are found by the names of its modules.
        blocks: glob of the blocks to look at where the user names none.
        preprocessing: how its images are made; None where nobody has said so.
        encode: how its texts are made; None for networks of images.
        logits: whether its output is one number per class.
        data: opens the split of the data that it was trained on; None where that is not known.
        tokens: what to take of outputs (b, tokens, d).
        batch: the batch size that it is fixed to; None for any.
        facts: plain values for the record: files and their SHA-256, sizes.
        notes: what the reader should know, in whole sentences.
    """

    name: str
    kind: str
    module: nn.Module
    blocks: str
    preprocessing: Preprocessing | None = None
    encode: Encode | None = None
    logits: bool = True
    data: Callable[[str | None], Examples] | None = None
    tokens: str | None = None
    batch: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def reads(self) -> str:
        """ "images" or "texts"."""
        return "images" if self.encode is None else "texts"


@dataclass(frozen=True, kw_only=True)
class How:
    """What the user says about models beside their names.

    Attributes:
        model: name of a network of lowland (or ``timm:NAME``) whose weights the file holds.
        width: its width.
        constructor: ``package.module:function`` that makes the network of a file of weights.
        arguments: what that function is called with.
        tower: of a network of images and texts: "image" or "text"; None for "image".
        size, mean, std: of the network's images, over what it brings along.
        shape: gives the shape of the data's images, for networks that are built to fit them.
        device: where the network will run; only exported programs must know.
    """

    model: str | None = None
    width: int | None = None
    constructor: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    tower: str | None = None
    size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    shape: Callable[[], Shape] | None = None
    device: str = "cpu"


def default_blocks(module: nn.Module) -> str:
    """A glob over the repeated part of a network.

    Of all groups of siblings that are numbered (``block1``, ``block2``; ``0``, ``1`` in a list of
    layers) the one with the most parameters; the outermost of equals. Without such a group, all
    children that have parameters.

    >>> default_blocks(nn.ModuleDict({"stem": nn.Linear(2, 2), "layers": nn.Sequential(
    ...     nn.Linear(9, 9), nn.Linear(9, 9))}))
    'layers.[0-9]*'
    """
    best, glob = 0, ""
    for name, parent in module.named_modules():
        for stem, members in _numbered(parent).items():
            weight = len({p for m in members for p in m.parameters()})
            numbers = sum(p.numel() for p in {p for m in members for p in m.parameters()})
            if weight and len(members) > 1 and numbers > best:
                best, glob = numbers, f"{name}.{stem}[0-9]*".lstrip(".")
    if glob:
        return glob
    children = [n for n, child in module.named_children() if any(True for _ in child.parameters())]
    return ",".join(children) or "*"


def _numbered(parent: nn.Module) -> dict[str, list[nn.Module]]:
    """Children whose names end in a number, by what comes before it."""
    groups: dict[str, list[nn.Module]] = {}
    for name, child in parent.named_children():
        if found := re.fullmatch(r"(.*?)\d+", name):
            groups.setdefault(found[1], []).append(child)
    return groups


def stands_for_all(module: nn.Module) -> str:
    """What stands for an example in a network over tokens: its class token, or the mean."""
    names = [name for name, _ in module.named_parameters()]
    if any("class_token" in n or "cls_token" in n or "class_embedding" in n for n in names):
        return "class"
    return "mean"


def channels_of(module: nn.Module) -> int | None:
    """Input channels of the first convolution, by the shape of its weights, if there is one."""
    shapes = (p.shape for p in module.parameters() if p.ndim == 4)
    return next((shape[1] for shape in shapes), None)


def check_file(path: Path) -> Path:
    """`path`, if it is a file that can be read."""
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    try:
        with path.open("rb"):
            return path
    except OSError as error:
        raise InputError(f"{path}: {(error.strerror or 'cannot be read').lower()}") from None
