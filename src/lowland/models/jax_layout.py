"""ViT and MLP-Mixer checkpoints of the ``vision_transformer`` repository, as NumPy arrays."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lowland.core.errors import InputError
from lowland.models.mixer import Mixer
from lowland.models.tokens import resized_grid
from lowland.models.vit import ViT

Arrays = Mapping[str, npt.NDArray[Any]]

_MAPPED = (
    (r"(embedding|stem)/", "stem.project."),
    (r"cls$", "positions.class_token"),
    (r"Transformer/posembed_input/pos_embedding$", "positions.positions"),
    (r"Transformer/encoderblock_(\d+)/", "block{}."),
    (r"MixerBlock_(\d+)/", "block{}."),
    (r"MultiHeadDotProductAttention_\d+/", "attention."),
    (r"MlpBlock_\d+/", "mlp."),
    (r"token_mixing/", "tokens."),
    (r"channel_mixing/", "channels."),
    (r"Dense_0/", "widen."),
    (r"Dense_1/", "narrow."),
    (r"LayerNorm_0/", "norm1."),
    (r"LayerNorm_[12]/", "norm2."),
    (r"(Transformer/encoder_norm|pre_head_layer_norm)/", "norm."),
    (r"pre_logits/", "representation.0."),
    (r"head/", "head."),
    (r"(query|key|value|out)/", "{}."),
    (r"(kernel|scale)$", "weight"),
    (r"bias$", "bias"),
)
"""Pieces of a name there, in the order they may follow each other in, and what they are here."""


def from_arrays(arrays: Arrays, *, size: int | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """The network of a checkpoint in the layout of the ``vision_transformer`` repository.

    Kernels are stored inputs first and are transposed, those of attention have heads as an axis of
    their own, and those of patches are (p, p, channels, d). Names and axes of all arrays are
    checked. bfloat16 arrays (two bytes of no known type) are widened.

    Args:
        arrays: name -> array, as `numpy.load` of the ``.npz`` gives them.
        size: height and width of the images; None for the size of the checkpoint. A ViT's position
            embeddings are resized, bilinear with corners on corners, as the repository does.

    Returns:
        The `ViT` or `Mixer` in eval mode, and what its size is.

    Raises:
        InputError: names or shapes that are not those of this layout, or a size that does not fit.

    Source: the layout of the released ``.npz`` files; names with the numbers of older Flax
    (``LayerNorm_2``, ``MultiHeadDotProductAttention_1``, ``MlpBlock_3``) and of newer are read.
    Confidence: high for ViT and Mixer; hybrids (R50+ViT) are refused.
    """
    if "embedding/kernel" in arrays and "cls" in arrays:
        plan = _vit_plan(arrays)
    elif "stem/kernel" in arrays and "MixerBlock_0/token_mixing/Dense_0/kernel" in arrays:
        plan = _mixer_plan(arrays)
    else:
        first = ", ".join(sorted(arrays)[:3])
        raise InputError(
            f"no ViT with a class token and no Mixer (it has {len(arrays)} arrays: {first}, ...): "
            "hybrids and other heads are not read"
        )
    plan.resize(size)
    model = plan.build()
    _fill(model, _by_names_here(arrays), plan)
    return model.eval(), plan.facts


@dataclass
class _Plan:
    """The size of a network, read off its arrays."""

    kind: Callable[..., nn.Module]
    options: dict[str, Any]
    stored: int
    positions: bool
    facts: dict[str, Any] = field(default_factory=dict)

    def resize(self, size: int | None) -> None:
        """Choose the image size."""
        patch = self.options["patch"]
        size = self.stored if size is None else size
        if size % patch or size < patch:
            raise InputError(
                f"images of {size} pixels cannot be cut into patches of {patch}: use --size "
                f"{max(1, round(size / patch)) * patch}"
            )
        if size != self.stored and not self.positions:
            raise InputError(
                f"a Mixer takes images of one size, here {self.stored} pixels, not {size}: use "
                f"--size {self.stored}"
            )
        self.options["size"] = size
        self.facts = {
            "architecture": self.kind.__name__,
            **self.options,
            **({"position embeddings resized from": self.stored} if size != self.stored else {}),
        }

    def build(self) -> nn.Module:
        return self.kind(**self.options)


def _vit_plan(arrays: Arrays) -> _Plan:
    patch, _, channels, width = _shape(arrays, "embedding/kernel", 4)
    tokens = _shape(arrays, "Transformer/posembed_input/pos_embedding", 3)[1] - 1
    depth = _depth(arrays, r"Transformer/encoderblock_(\d+)/")
    first = "Transformer/encoderblock_0"
    query = next((n for n in arrays if n.startswith(first) and n.endswith("query/kernel")), "query")
    widen = next((n for n in arrays if n.startswith(first) and "Dense_0/kernel" in n), "Dense_0")
    representation = arrays.get("pre_logits/kernel")
    options = {
        "channels": channels,
        "classes": _shape(arrays, "head/kernel", 2)[1],
        "patch": patch,
        "width": width,
        "depth": depth,
        "heads": _shape(arrays, query, 3)[1],
        "hidden": _shape(arrays, widen, 2)[1],
        "representation": None if representation is None else representation.shape[1],
    }
    return _Plan(ViT, options, _side(tokens) * patch, positions=True)


def _mixer_plan(arrays: Arrays) -> _Plan:
    patch, _, channels, width = _shape(arrays, "stem/kernel", 4)
    tokens, hidden = _shape(arrays, "MixerBlock_0/token_mixing/Dense_0/kernel", 2)
    options = {
        "channels": channels,
        "classes": _shape(arrays, "head/kernel", 2)[1],
        "patch": patch,
        "width": width,
        "depth": _depth(arrays, r"MixerBlock_(\d+)/"),
        "hidden_tokens": hidden,
        "hidden_channels": _shape(arrays, "MixerBlock_0/channel_mixing/Dense_0/kernel", 2)[1],
    }
    return _Plan(Mixer, options, _side(tokens) * patch, positions=False)


def _shape(arrays: Arrays, name: str, axes: int) -> tuple[int, ...]:
    if name not in arrays:
        raise InputError(f"array {name!r} is missing: give a whole checkpoint, with its head")
    if arrays[name].ndim != axes:
        raise InputError(f"array {name!r} has shape {arrays[name].shape}; {axes} axes are needed")
    return tuple(arrays[name].shape)


def _depth(arrays: Arrays, pattern: str) -> int:
    return 1 + max(
        (int(found[1]) for name in arrays if (found := re.match(pattern, name))), default=-1
    )


def _side(tokens: int) -> int:
    side = math.isqrt(max(tokens, 0))
    if side * side != tokens or side == 0:
        raise InputError(f"{tokens} patches are no square: only square images are read")
    return side


def _by_names_here(arrays: Arrays) -> dict[str, Tensor]:
    """The arrays by the names of parameters here."""
    names: dict[str, str] = {}
    for name in arrays:
        other = names.setdefault(_translated(name), name)
        if other != name:
            raise InputError(
                f"arrays {other!r} and {name!r} are the same parameter: the file mixes the names "
                "of two versions; save one checkpoint alone"
            )
    return {here: _tensor(arrays[name]) for here, name in names.items()}


def _translated(name: str) -> str:
    """The name of a parameter here; block numbers start at 1 instead of 0."""
    rest, here = name, ""
    for pattern, piece in _MAPPED:
        found = re.match(pattern, rest)
        if found is None:
            continue
        words = [str(int(g) + 1) if g.isdigit() else g for g in found.groups()]
        here += piece.format(*words) if "{}" in piece else piece
        rest = rest[found.end() :]
        if not rest:
            return here
    raise InputError(f"array {name!r} belongs to no ViT or Mixer of this layout")


def _tensor(array: npt.NDArray[Any]) -> Tensor:
    if array.dtype.kind == "V" and array.dtype.itemsize == 2:  # bfloat16, which NumPy lacks
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16).float()
    if array.dtype.kind != "f":
        raise InputError(f"arrays of type {array.dtype}: floating-point numbers are needed")
    return torch.from_numpy(array.astype(np.float32))


def _fill(model: nn.Module, found: dict[str, Tensor], plan: _Plan) -> None:
    wanted = dict(model.named_parameters())
    if missing := sorted(wanted.keys() - found.keys()):
        raise InputError(f"{len(missing)} arrays are missing, first {missing[0]!r} (as named here)")
    if strange := sorted(found.keys() - wanted.keys()):
        raise InputError(f"{len(strange)} arrays too many, first {strange[0]!r} (as named here)")
    with torch.no_grad():
        for name, parameter in wanted.items():
            value = _arranged(name, found[name], parameter, plan)
            if value.shape != parameter.shape:
                raise InputError(
                    f"{name} has shape {tuple(value.shape)}, {tuple(parameter.shape)} is needed"
                )
            parameter.copy_(value)


def _arranged(name: str, value: Tensor, parameter: Tensor, plan: _Plan) -> Tensor:
    """An array with its axes in PyTorch's order."""
    if name == "positions.positions":
        return _positions(value, plan)
    if name == "stem.project.weight":
        return value.permute(3, 2, 0, 1)
    if ".attention." in name:
        _check_axes(name, value, plan)
        inputs = 2 if ".out." in name else 1
        if name.endswith("bias"):
            return value.flatten()
        return value.flatten(0, inputs - 1).flatten(1).T
    return value.T if value.ndim == 2 and parameter.ndim == 2 else value


def _check_axes(name: str, value: Tensor, plan: _Plan) -> None:
    """Heads are an axis of their own: flattened, a wrong order would fit as well."""
    width, heads = plan.options["width"], plan.options["heads"]
    apart = (heads, width // heads)
    kernel = (*apart, width) if ".out." in name else (width, *apart)
    bias = (width,) if ".out." in name else apart
    wanted = bias if name.endswith("bias") else kernel
    if tuple(value.shape) != wanted:
        raise InputError(
            f"{name} has shape {tuple(value.shape)} in the file, {wanted} is needed for {heads} "
            "heads"
        )


def _positions(value: Tensor, plan: _Plan) -> Tensor:
    if plan.options["size"] == plan.stored:
        return value
    grid = resized_grid(value[0, 1:], plan.options["size"] // plan.options["patch"])
    return torch.cat([value[0, :1], grid])[None]
