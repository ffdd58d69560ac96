"""The residual stream of transformer blocks, found by following tensors through one forward pass.

A block adds two branches to its input: attention (or whatever else mixes tokens) and an MLP. The
sum in between is no module's output. It is recognised by where it goes: it is what a module of the
block is given that no other module of the block has returned. Nothing here knows a model by name.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lowland.core.errors import InputError
from lowland.measure.features.taps import Side, Stream, Tap
from lowland.measure.features.tracing import Run, Trace

STREAMS = (
    "before-attention",
    "after-attention",
    "after-mlp",
    "attention-branch",
    "mlp-branch",
    "before-activation",
    "after-activation",
)
"""Names of what passes through a transformer block, see `capture`."""

_MIXES_TOKENS = re.compile("attn|attention|token", re.IGNORECASE)
_PASSES_ON = re.compile("norm|drop|identity|scale", re.IGNORECASE)
_ACTIVATION = re.compile("gelu|relu|silu|swish|mish|tanh|sigmoid|activation", re.IGNORECASE)


def find_streams(
    forward: Callable[[], Any], blocks: Mapping[str, nn.Module]
) -> dict[str, dict[str, Stream]]:
    """Block -> stream -> where to catch it, learned from one forward pass of the model.

    Args:
        forward: runs the model once, on few examples: all tensors inside the blocks are kept.
        blocks: modules that add an attention branch and an MLP branch to their input, normalised
            before the branches or after the sums, by name.

    Raises:
        InputError: a block that does not run once, or has no such structure.
    """
    with contextlib.ExitStack() as hooks:
        traces = {name: Trace(name, block, hooks) for name, block in blocks.items()}
        forward()
    return {name: _Block(trace).streams() for name, trace in traces.items()}


class _Block:
    """One run of a block, read as x → x + attention → … + MLP."""

    def __init__(self, trace: Trace) -> None:
        self._values: dict[tuple[int, str, int], Tensor | None] = {}
        self.whole = trace.whole()
        self.name = self.whole.name
        self.runs = [run for run in trace.runs if run is not self.whole]
        self.calls = [run for run in self.runs if run.depth == 1]
        mixing = [run for run in self.calls if _mixes_tokens(run)]
        if self.whole.given is None or self.whole.made is None:
            raise self._error("is given or returns no tensor")
        if not mixing:
            called = ", ".join(dict.fromkeys(run.child for run in self.calls)) or "no modules"
            raise self._error(f"has no attention among what it runs ({called})")
        self.first, self.last = mixing[0], mixing[-1]
        self.post_norm = self.first.given_key == self.whole.given_key

    def streams(self) -> dict[str, Stream]:
        """All that were found; the activation's only where there is one."""
        before, end = self._tap(self.whole, "input"), self._tap(self.whole, "output")
        after, total, verified = self._middle(before)
        last_norm = self._norm_that_made(self.whole.made_key, self.runs)
        last_total = end if last_norm is None else self._tap(last_norm, "input")
        found = {
            "before-attention": Stream(before),
            "after-attention": Stream(after),
            "after-mlp": Stream(end),
            "attention-branch": verified or Stream(total, before),
            "mlp-branch": self._branch(after, last_total, self._after_attention())
            or Stream(last_total, after),
        }
        return {**found, **self._activation()}

    def _middle(self, before: Tap) -> tuple[Tap, Tap, Stream | None]:
        """The stream after attention, the sum that it is or is the norm of, and its branch."""
        known = {self.whole.given_key} | {r.made_key for r in self.calls if r.end <= self.last.end}
        for run in self._after_attention():
            if run.depth != 1:
                continue
            if run.given is not None and run.given_key not in known:
                total = self._tap(run, "input")
                branch = self._branch(before, total, self._until(run.start))
                if branch or run.is_norm:
                    norm_of_sum = self.post_norm and run.is_norm
                    return (self._tap(run, "output") if norm_of_sum else total), total, branch
            known.add(run.made_key)
        return self._sum_inside_attention(before)

    def _sum_inside_attention(self, before: Tap) -> tuple[Tap, Tap, Stream | None]:
        """For sub-blocks that add their input themselves."""
        after = self._tap(self.last, "output")
        inside = self._until(self.last.end)
        norm = self._norm_that_made(self.last.made_key, inside)
        total = after if norm is None else self._tap(norm, "input")
        branch = self._branch(before, total, inside)
        goes_on = any(run.given_key == self.last.made_key for run in self._after_attention())
        if not (self.post_norm and goes_on and (norm or branch)):
            raise self._error(
                "has no sum between attention and MLP (do they run side by side?), or hides it"
            )
        return after, total, branch

    def _branch(self, base: Tap, total: Tap, runs: Sequence[Run]) -> Stream | None:
        """The module's output b with base + b = total, bit for bit, where there is one."""
        x, s = self._values[base.key], self._values[total.key]
        if x is None or s is None or x.numel() != s.numel():
            return None
        for run in sorted(runs, key=lambda run: (run.depth, run.end)):
            b = run.made
            if b is None or b.numel() != s.numel() or not b.is_floating_point():
                continue
            added = x.reshape(s.shape) + b.reshape(s.shape)
            if added.dtype == s.dtype and torch.equal(added, s):
                return Stream(self._tap(run, "output"))
        return None

    def _activation(self) -> dict[str, Stream]:
        """Around the MLP's activation: a module, or what lies between its two linear layers."""
        inside = self._after_attention()
        active = [run for run in inside if run.is_leaf and _ACTIVATION.search(run.kind)]
        if active:
            first, then = active[0], self._tap(active[0], "output")
        else:
            linear = [run for run in inside if run.is_leaf and run.is_linear]
            if len(linear) < 2 or linear[0].made is None or linear[1].given is None:
                return {}
            if linear[0].made.shape != linear[1].given.shape:
                return {}
            first, then = linear[0], self._tap(linear[1], "input")
        before = self._tap(first, "input" if active else "output")
        return {"before-activation": Stream(before), "after-activation": Stream(then)}

    def _after_attention(self) -> list[Run]:
        runs = [run for run in self.runs if run.start > self.last.end]
        return sorted(runs, key=lambda run: run.start)

    def _until(self, moment: int) -> list[Run]:
        return [run for run in self.runs if run.end <= moment]

    def _norm_that_made(self, key: Any, runs: Sequence[Run]) -> Run | None:
        return next((run for run in runs if run.is_norm and run.made_key == key), None)

    def _tap(self, run: Run, side: Side) -> Tap:
        of_same = [other for other in [self.whole, *self.runs] if other.module is run.module]
        tap = Tap(run.name, run.module, side, run=run.number, runs=len(of_same))
        self._values[tap.key] = run.given if side == "input" else run.made
        return tap

    def _error(self, what: str) -> InputError:
        return InputError(
            f"block {self.name!r} {what}, so that its residual stream cannot be told; name a "
            "module and where='input' or 'output'"
        )


def _mixes_tokens(run: Run) -> bool:
    if run.is_leaf and _PASSES_ON.search(run.kind):
        return False
    return bool(_MIXES_TOKENS.search(run.child) or _MIXES_TOKENS.search(run.kind))
