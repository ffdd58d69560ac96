"""Any nesting of plain values and tensors, split into JSON and named tensors, and put back.

This is how an optimizer's state is kept without a pickle: the tensors go to a safetensors file,
the rest to JSON, and nothing that is read back can run code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor


def flatten(value: Any, prefix: str) -> tuple[Any, dict[str, Tensor]]:
    """Split `value` into a structure that JSON can hold and the tensors in it.

    Args:
        value: dicts, lists and tuples, nested at will, of tensors, numbers, strings and None.
            Dict keys may be strings, numbers, None or tuples of them.
        prefix: the tensors are named ``prefix/0``, ``prefix/1``, ... in the order met.

    Returns:
        The structure, and the tensors by name (detached, on the CPU; not copied otherwise).

    Raises:
        TypeError: something else is in it; the path to it is named.
    """
    tensors: dict[str, Tensor] = {}
    return _encode(value, prefix, tensors, prefix), tensors


def unflatten(structure: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `flatten` split, with the tensors in their places; exact, floats and keys included."""
    if not isinstance(structure, dict):
        return structure
    ((tag, content),) = structure.items()
    if tag == "tensor":
        return tensors[content]
    if tag == "float":
        return float(content)
    if tag == "dict":
        return {unflatten(key, tensors): unflatten(item, tensors) for key, item in content}
    items = [unflatten(item, tensors) for item in content]
    return tuple(items) if tag == "tuple" else items


def _encode(value: Any, prefix: str, tensors: dict[str, Tensor], path: str) -> Any:
    if isinstance(value, Tensor):
        name = f"{prefix}/{len(tensors)}"
        tensors[name] = value.detach().cpu()
        return {"tensor": name}
    if isinstance(value, Mapping):
        pairs = [
            [
                _encode(key, prefix, tensors, path),
                _encode(item, prefix, tensors, f"{path}[{key!r}]"),
            ]
            for key, item in value.items()
        ]
        return {"dict": pairs}
    if isinstance(value, list | tuple):
        items = [_encode(v, prefix, tensors, f"{path}[{i}]") for i, v in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": items}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(float(value))}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{path} is a {type(value).__name__}: it cannot be kept without a pickle")
