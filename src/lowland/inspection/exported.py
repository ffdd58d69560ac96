"""Exported programs (``.pt2``) as networks whose blocks can be looked into."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from lowland.core.errors import InputError, one_line
from lowland.inspection.subject import Subject, check_file, default_blocks, stands_for_all
from lowland.inspection.weights import sha256


def open_exported(name: str, path: Path, device: str = "cpu") -> Subject:
    """An exported program, taken apart again into the modules that it was exported from.

    It computes what it computed when it was exported, whatever mode it is in: dropout and BatchNorm
    are as they were then.

    Raises:
        InputError: it is damaged, takes several inputs, or comes from a torch that this one cannot
            read.
    """
    check_file(path)
    if not zipfile.is_zipfile(path):  # torch would log a traceback first
        raise InputError(f"{path} is no exported program, or not all of one: export it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(path)
            if device != "cpu":  # devices are written into the program too
                from torch.export.passes import move_to_device_pass

                program = move_to_device_pass(program, device)
            module = torch.export.unflatten(program)
    except Exception as error:  # readers of several formats, each with kinds of its own
        raise InputError(f"{path} is no exported program ({one_line(error)})") from None
    shape = _input_shape(program, path)
    batch = shape[0] if isinstance(shape[0], int) else None
    return Subject(
        name=name,
        kind="exported program",
        module=module.eval(),
        blocks=default_blocks(module),
        tokens=stands_for_all(module),
        batch=batch,
        facts={
            "sha256": {path.name: sha256(path)},
            "input": [side if isinstance(side, int) else "any" for side in shape],
        },
        notes=("An exported program: it computes what it did when it was exported, in any mode.",),
    )


def _input_shape(program: Any, path: Path) -> tuple[Any, ...]:
    """The shape of the one input; sides that may vary are no plain integers."""
    names = list(program.graph_signature.user_inputs)
    if len(names) != 1:
        raise InputError(f"{path} takes {len(names)} inputs: export a network of one")
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name == names[0]:
            return tuple(node.meta["val"].shape)
    raise InputError(f"{path} has no input {names[0]!r}")
