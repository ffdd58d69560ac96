"""Files of weights, read without running what is in them, and put into a network whole."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lowland.core.errors import InputError, one_line
from lowland.inspection.subject import check_file

NESTS = ("state_dict", "model_state_dict", "model", "module", "net", "weights", "params")
"""Keys under which training scripts put the weights in their checkpoints."""

PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
"""What wrappers put before every name."""


def read_weights(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Names and tensors of a safetensors file, or of one that ``torch.save`` wrote.

    Files of the second kind are unpickled with ``weights_only=True``, always: nothing in them runs.
    Weights nested under one of `NESTS` are found.

    Returns:
        The tensors, and notes on what else was found.

    Raises:
        InputError: not such a file, or one that holds other Python objects.
    """
    check_file(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path), ()
    return _unnested(path, _unpickled(path))


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} is no whole safetensors file ({one_line(error)})") from None


def _unpickled(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        culprit = str(error).partition("GLOBAL ")[2].partition(" ")[0]
        what = f" ({culprit})" if culprit else ""
        raise InputError(
            f"{path} holds Python objects{what} that only weights_only=False would load, and that "
            "can run any code: save model.state_dict() alone; lowland loads nothing else"
        ) from None
    except Exception as error:  # damaged files fail in many ways
        raise InputError(f"{path} is no file of weights ({one_line(error)})") from None


def _unnested(path: Path, found: Any) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    notes: list[str] = []
    while isinstance(found, Mapping):
        if found and all(isinstance(value, Tensor) for value in found.values()):
            return {str(name): value for name, value in found.items()}, tuple(notes)
        inner = [key for key in NESTS if isinstance(found.get(key), Mapping)]
        if not inner:
            break
        if len(inner) > 1:
            notes.append(f"{path.name} has weights under {', '.join(inner)}; {inner[0]} was taken.")
        found = found[inner[0]]
    keys = ", ".join(map(str, list(found)[:4])) if isinstance(found, Mapping) else ""
    what = f"a mapping with keys {keys}" if keys else type(found).__name__
    raise InputError(f"{path} holds {what}, no weights: save model.state_dict()")


def fill(module: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Put all weights into a network; every name and shape must fit.

    What wrappers put before the names (`PREFIXES`) is dropped where every name has it and the
    network has not.

    Raises:
        InputError: names that are missing or too many, or a shape that differs.
    """
    wanted = module.state_dict()
    named = _bare(weights, wanted)
    for name, tensor in named.items():
        if name in wanted and tensor.shape != wanted[name].shape:
            raise InputError(
                f"{path}: {name} has shape {tuple(tensor.shape)}, the network needs "
                f"{tuple(wanted[name].shape)}: build the network that was trained"
            )
    result = module.load_state_dict(named, strict=False)
    wrong = [
        _some(names, words)
        for names, words in (
            (result.missing_keys, "are missing"),
            (result.unexpected_keys, "are not in the network"),
        )
        if names
    ]
    if wrong:
        raise InputError(f"{path} does not fit {type(module).__name__}: {'; '.join(wrong)}")


def _bare(weights: Mapping[str, Tensor], wanted: Iterable[str]) -> dict[str, Tensor]:
    known = set(wanted)
    named = {name.replace("_orig_mod.", ""): value for name, value in weights.items()}
    while not known & named.keys():
        prefix = next((p for p in PREFIXES if named and all(n.startswith(p) for n in named)), None)
        if prefix is None:
            break
        named = {name.removeprefix(prefix): value for name, value in named.items()}
    return named


def _some(names: list[str], words: str) -> str:
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} tensors {words} ({shown})"


def sha256(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
