"""The modules of a network that a glob names, and running them where hooks are heard."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import nn

from lowland.core.selection import match_names


def matching_blocks(model: nn.Module, glob: str) -> list[str]:
    """Names of the modules that `glob` matches, level by level, in the model's order.

    Raises:
        InputError: nothing matches; the nearest name at the same depth is given.
    """
    names = list(named_blocks(model))
    chosen: set[str] = set()
    for part in (part.strip() for part in glob.split(",")):
        level = [name for name in names if name.count(".") == part.count(".")]
        chosen.update(match_names(part, level or names))
    return [name for name in names if name in chosen]


def named_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """Every module but the model itself by name, without what `torch.compile` puts before it."""
    named = ((n.replace("_orig_mod.", ""), m) for n, m in model.named_modules())
    return {name: module for name, module in named if name not in ("", "_orig_mod")}


def eager(model: nn.Module) -> contextlib.AbstractContextManager[Any]:
    """Compiled graphs run without hooks, so while features are caught they must not be used."""
    compiled = any(
        hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )
    if not compiled:
        return contextlib.nullcontext()
    stance: contextlib.AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance
