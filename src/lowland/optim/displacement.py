"""Moving the weights to w+ε and bringing them back to exactly w."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowland.core.perturbation import combine_norms, global_norm, wide_dtype

Scale = float | Tensor


@dataclass
class Shift:
    """ε = s·d on one group: from measured tensors to directions d when the move is made.

    Attributes:
        weights: the tensors that move.
        directions: d, or what `finish` makes d of.
        scale: s, one number or one for each tensor.
        finish: makes d at w, once.
    """

    weights: list[Tensor]
    directions: list[Tensor]
    scale: Scale | list[Scale]
    finish: Callable[[list[Tensor]], list[Tensor]] | None = None

    def take(self) -> list[Tensor]:
        """d; nothing is held on to."""
        directions, self.directions = self.directions, []
        return directions if self.finish is None else self.finish(directions)


Move = list[Shift]

SMALL = 16_384
"""Mean number of elements per tensor below which one norm over a flat copy beats many norms."""


class Displacement:
    """A persistent copy of the weights that move, and the move itself.

    w is copied into buffers that are allocated once, ε is added in place, and w comes back by an
    in-place copy: addresses never change, and coming back is exact in every dtype, which
    subtracting ε is not. Memory: one copy of the tensors that move.

    The buffers of one type and device are slices of one flat tensor, which serves as work space
    for the norm before w is copied there.

    Args:
        lean: other tensors move in every step, so there are buffers for those of one step: all that
            ever moved would in the end be everything.
    """

    def __init__(self, lean: bool = False) -> None:
        self.lean = lean
        self.displaced = False
        self._store = _Store([])
        self._moved: list[Tensor] = []
        self._saved: list[Tensor] = []
        self.checked = False  # `norm` has looked at the parameters of the coming move

    @property
    def elements(self) -> int:
        """Number of elements in the buffers."""
        return sum(flat.numel() for flat in self._store.flat)

    def norm(self, params: list[Tensor], tensors: list[Tensor], *, all_move: bool = True) -> Tensor:
        """The joint Euclidean norm of `tensors`, shaped like `params`, which are about to move.

        Which way it is summed must not depend on what moved in earlier steps, or a resumed run
        would round differently: `all_move` says that these are all parameters that there are.

        Cost: one read, or for networks of many small tensors a copy and one read, which is several
        times faster there than a norm for each.
        """
        if not params:
            return torch.zeros(())
        buffers = self._buffers(params)
        self.checked = True
        whole = len(params) == len(self._store.params)
        exact = all(wide_dtype(flat.dtype) == flat.dtype for flat in self._store.flat)
        small = self.elements < SMALL * len(params)
        if self.displaced or not (all_move and whole and exact and small):
            return global_norm(tensors)
        torch._foreach_copy_(buffers, tensors)
        return combine_norms([torch.linalg.vector_norm(flat) for flat in self._store.flat])

    def go(self, moves: Move) -> None:
        """w ← w + s·d for every shift; w is copied away first."""
        if not moves:
            return
        moved = [p for shift in moves for p in shift.weights]
        saved = self._buffers(moved, checked=self.checked)
        self.checked = False
        torch._foreach_copy_(saved, moved)
        self._moved, self._saved = moved, saved
        self.displaced = True
        made = [shift.take() for shift in moves]  # at w: metrics look at the weights
        narrow = any(flat.dtype == torch.float16 for flat in self._store.flat)
        for shift, directions in zip(moves, made, strict=True):
            _add(shift.weights, directions, shift.scale, narrow)

    def come_back(self) -> None:
        """Put w back, bit for bit. Safe to call at any time and any number of times."""
        if self.displaced:
            with torch.no_grad():
                torch._foreach_copy_(self._moved, self._saved)
            self.displaced = False

    def _buffers(self, params: list[Tensor], *, checked: bool = False) -> list[Tensor]:
        """Their buffers: the ones they had, unless a parameter is new or not what it was.

        `checked` says that `norm` has just looked at all of them.
        """
        store = self._store
        fits = checked or store.fits()
        same = len(params) == len(store.params) and all(map(operator.is_, params, store.params))
        if fits and same:
            return store.buffers
        known = fits and all(id(p) in store.places for p in params)
        few = self.lean and 2 * sum(p.numel() for p in params) < self.elements
        if few or not known:
            before = store.params if fits and not self.lean else []
            if not self.displaced:  # what was there goes first
                self._store = store = _Store([])
                self._saved = []
            self._store = store = _Store(list(dict.fromkeys([*before, *params])))
        return [store.buffers[store.places[id(p)]] for p in params]

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles start with no buffers of their own."""
        return Displacement(self.lean).__dict__


def _add(weights: list[Tensor], directions: list[Tensor], scale: Any, narrow: bool) -> None:
    """w ← w + s·d; `narrow` says that some of the weights are float16."""
    unseen = isinstance(scale, Tensor) or (
        isinstance(scale, list) and any(isinstance(s, Tensor) for s in scale)
    )
    if not (unseen or narrow or isinstance(scale, list)):
        torch._foreach_add_(weights, directions, alpha=scale)
        return
    # float16 has no room for a scale like ρ/‖g‖: the product is formed in float32
    wide = [d.to(wide_dtype(d.dtype)) for d in directions]
    if isinstance(scale, list):
        wide, scale = [d * s for d, s in zip(wide, scale, strict=True)], 1.0
    product = contained(wide, scale) if unseen else torch._foreach_mul(wide, scale)
    torch._foreach_add_(weights, product)


def destination(moves: Move) -> dict[Tensor, Tensor]:
    """Where a move leads, as new tensors beside the weights, which stay; the move is used up."""
    there: dict[Tensor, Tensor] = {}
    for shift in moves:
        copies = [w.detach().clone() for w in shift.weights]
        narrow = any(w.dtype == torch.float16 for w in copies)
        _add(copies, shift.take(), shift.scale, narrow)
        there.update(zip(shift.weights, copies, strict=True))
    return there


def contained(tensors: list[Tensor], scale: Scale) -> list[Tensor]:
    """s·t, with 0 for what is not finite.

    The host has not looked at the scale. If the step is going to be skipped, the second pass runs
    at w then: at NaN it would leave NaN in everything that a forward writes.

    Cost: three reads and writes in three calls for each type, however many tensors there are.
    """
    out: list[Tensor] = list(tensors)
    kinds: dict[tuple[torch.dtype, torch.device], list[int]] = {}
    for i, t in enumerate(tensors):
        kinds.setdefault((t.dtype, t.device), []).append(i)
    for members in kinds.values():
        flat = torch.cat([_flat(tensors[i]) for i in members]).mul_(scale)
        parts = torch.view_as_real(flat) if flat.is_complex() else flat
        parts.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        sizes = [tensors[i].numel() for i in members]
        for i, piece in zip(members, torch.split(flat, sizes), strict=True):
            out[i] = _shaped(piece, tensors[i])
    return out


def _flat(t: Tensor) -> Tensor:
    """All elements in the order that they have in memory, without a copy where that is possible."""
    return (t.permute(0, 2, 3, 1) if _by_channels(t) else t).reshape(-1)


def _shaped(piece: Tensor, like: Tensor) -> Tensor:
    """A flat tensor in the shape and in the layout of another, as a view.

    Lists of tensors that are laid out alike are worked on in a few kernels, others one by one.
    """
    if not _by_channels(like):
        made = piece.view(like.shape)  # of 1x1 kernels both layouts are one, under other strides
        same = made.stride() == like.stride() or not like.is_contiguous()
        return made if same else piece.as_strided(like.shape, like.stride())
    n, c, h, w = like.shape
    return piece.view(n, h, w, c).permute(0, 3, 1, 2)


def _by_channels(t: Tensor) -> bool:
    """Whether the channels of a position lie side by side (``torch.channels_last``)."""
    if t.ndim != 4 or t.is_contiguous():
        return False
    return t.is_contiguous(memory_format=torch.channels_last)


class _Store:
    """Buffers for a list of parameters, flat per type and device."""

    def __init__(self, params: list[Tensor]) -> None:
        kinds: dict[tuple[torch.dtype, torch.device], list[int]] = {}
        for i, p in enumerate(params):
            kinds.setdefault((p.dtype, p.device), []).append(i)
        buffers: list[Tensor] = [torch.empty(0)] * len(params)
        self.flat: list[Tensor] = []
        for (dtype, device), members in kinds.items():
            sizes = [params[i].numel() for i in members]
            flat = torch.empty(sum(sizes), dtype=dtype, device=device)
            for i, piece in zip(members, torch.split(flat, sizes), strict=True):
                buffers[i] = _shaped(piece, params[i])
            self.flat.append(flat)
        self.params, self.buffers = list(params), buffers
        self.places = {id(p): i for i, p in enumerate(params)}
        self._kinds = self._now()

    def _now(self) -> list[Any]:
        device = self.params[0].device if self.params else None
        return [device, *map(_DTYPE, self.params), *map(_SHAPE, self.params)]

    def fits(self) -> bool:
        """Whether the parameters still are what they were (``model.double()``, a new ``.data``)."""
        return self._now() == self._kinds


_DTYPE, _SHAPE = operator.attrgetter("dtype"), operator.attrgetter("shape")
