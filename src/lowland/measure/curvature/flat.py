"""Parameters as one long vector, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lowland.core.errors import InputError


@dataclass(frozen=True, eq=False)
class Layout:
    """Where each parameter lies in a vector of all of them.

    Attributes:
        names: of the parameters, in the order in which they are laid out.
        shapes: their shapes.
        dtypes: their floating-point types.
        devices: where each of them is.
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    dtypes: tuple[torch.dtype, ...]
    devices: tuple[torch.device, ...]

    @staticmethod
    def of(parameters: Mapping[str, Tensor]) -> Layout:
        """The layout of `parameters`, one after the other."""
        tensors = tuple(parameters.values())
        return Layout(
            names=tuple(parameters),
            shapes=tuple(t.shape for t in tensors),
            dtypes=tuple(t.dtype for t in tensors),
            devices=tuple(t.device for t in tensors),
        )

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return sum(self._sizes)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the vector: the widest of the parameters'."""
        widest = self.dtypes[0]
        for dtype in self.dtypes:
            widest = torch.promote_types(widest, dtype)
        return widest

    @property
    def device(self) -> torch.device:
        """Where the vector is: with the first parameter."""
        return self.devices[0]

    @property
    def _sizes(self) -> list[int]:
        return [shape.numel() for shape in self.shapes]

    def views(self, vector: Tensor) -> list[Tensor]:
        """The parts of `vector` (d,) in the parameters' shapes; they share its memory."""
        parts = torch.split(vector, self._sizes)
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def split(self, vector: Tensor) -> list[Tensor]:
        """The parts of `vector` (d,) as tensors like the parameters: shape, type and device."""
        views = self.views(vector)
        places = zip(views, self.devices, self.dtypes, strict=True)
        return [view.to(device, dtype) for view, device, dtype in places]

    def join(self, parts: Iterable[Tensor | None]) -> Tensor:
        """The vector (d,) with these parts; zeros where a part is None."""
        vector = torch.zeros(self.size, dtype=self.dtype, device=self.device)
        self.add(vector, list(parts), 1.0)
        return vector

    def add(self, vector: Tensor, parts: Sequence[Tensor | None], factor: float) -> None:
        """vector += factor·parts, in place; parts that are None count as zeros."""
        pairs = zip(self.views(vector), parts, strict=True)
        there = [(view, part.detach()) for view, part in pairs if part is not None]
        if all(p.dtype == v.dtype and p.device == v.device for v, p in there) and there:
            torch._foreach_add_([v for v, _ in there], [p for _, p in there], alpha=factor)
            return
        for view, part in there:
            view.add_(part.to(view.device, view.dtype), alpha=factor)

    def by_name(self, vector: Tensor) -> dict[str, Tensor]:
        """The parts of `vector` (d,) under the parameters' names; copies."""
        parts = (view.clone() for view in self.views(vector))
        return dict(zip(self.names, parts, strict=True))

    def vector(self, parts: Mapping[str, Tensor]) -> Tensor:
        """The vector (d,) of tensors given by name, as `by_name` gives them.

        Raises:
            InputError: a name is missing or unknown, or a shape is another.
        """
        if set(parts) != set(self.names):
            odd = sorted(set(parts) ^ set(self.names))[0]
            raise InputError(
                f"vector: {odd!r} is missing or unknown; give one tensor per parameter"
            )
        for name, shape in zip(self.names, self.shapes, strict=True):
            if parts[name].shape != shape:
                given = tuple(parts[name].shape)
                raise InputError(f"vector: {name!r} has shape {given}; give {tuple(shape)}")
        return self.join([parts[name] for name in self.names])
