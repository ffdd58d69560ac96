"""The resumable state of a run: tensors as safetensors, the rest as JSON, no pickle.

Two files make a state: ``state-STEP.safetensors`` with the tensors, then ``state.json``, which
names it and carries its SHA-256. Replacing ``state.json`` is the one moment at which a new state
takes the place of the old one, so a kill anywhere leaves one whole state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from lowland.core.files import write_atomically
from lowland.train.flatten import flatten, unflatten
from lowland.train.history import Row, decode_rows, encode_rows
from lowland.train.sealed import read_sealed, refused, write_sealed

STATE = "state.json"
_PLAIN = ("step", "seconds", "definitions", "sessions")


@dataclass(frozen=True, kw_only=True)
class State:
    """Where a run is, complete enough to go on as if it had never stopped.

    Attributes:
        step: updates done.
        model: parameters and buffers by name.
        optimizer: ``optimizer.state_dict()``.
        seconds: wall time so far, by what it was spent on.
        rows: history so far.
        definitions: what each measured column means, in words.
        sessions: provenance of every process that worked on the run, with the step it began at.
        measured: rows of what the recipe measures beside its evaluations, so far.
        points: metrics that no logger has been given yet.
    """

    step: int
    model: Mapping[str, Tensor]
    optimizer: Any
    seconds: dict[str, float] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    definitions: dict[str, str] = field(default_factory=dict)
    sessions: list[dict[str, Any]] = field(default_factory=list)
    points: list[Row] = field(default_factory=list)
    measured: list[Row] = field(default_factory=list)


def tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors in the safetensors format; each is copied, so tied weights are stored twice."""
    from safetensors.torch import save

    return save({name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()})


def save_state(folder: Path, run: str, state: State) -> None:
    """Make `state` the state of the run in `folder`, atomically; the previous one is removed."""
    structure, tensors = flatten({"model": state.model, "optimizer": state.optimizer}, "state")
    payload = tensor_bytes(tensors)
    file = f"state-{state.step}.safetensors"
    record = {
        "run": run,
        **{name: getattr(state, name) for name in _PLAIN},
        "rows": encode_rows(state.rows),
        "points": encode_rows(state.points),
        "measured": encode_rows(state.measured),
        "structure": structure,
        "tensors": {"file": file, "sha256": hashlib.sha256(payload).hexdigest()},
    }
    write_atomically(folder / file, lambda out: out.write(payload))
    write_sealed(folder / STATE, "state", record)
    discard_state(folder, keep=file)


def load_state(folder: Path, run: str) -> State | None:
    """The state of the run in `folder`; None if it has none yet.

    Raises:
        InputError: a file of the state is damaged, missing or of another run; it is named.
    """
    from safetensors.torch import load

    if not (folder / STATE).exists():
        return None
    record = read_sealed(folder / STATE, "state", run)
    file = folder / record["tensors"]["file"]
    try:
        payload = file.read_bytes()
    except OSError as error:
        raise refused(file, f"cannot be read: {error.strerror}") from None
    if hashlib.sha256(payload).hexdigest() != record["tensors"]["sha256"]:
        raise refused(file, f"does not have the SHA-256 that {STATE} records")
    # cloned: tensors of their own, aligned as torch allocates them
    tensors = {name: tensor.clone() for name, tensor in load(payload).items()}
    return State(
        **unflatten(record["structure"], tensors),
        **{name: record[name] for name in _PLAIN},
        rows=decode_rows(record["rows"]),
        points=decode_rows(record["points"]),
        measured=decode_rows(record.get("measured", [])),
    )


def discard_state(folder: Path, *, keep: str | None = None) -> None:
    """Remove tensor files other than `keep`; without `keep` the whole state, its JSON first."""
    if keep is None:
        (folder / STATE).unlink(missing_ok=True)
    for file in folder.glob("state-*.safetensors"):
        if file.name != keep:
            file.unlink(missing_ok=True)
