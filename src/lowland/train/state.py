"""The resumable state of a run: tensors as safetensors, the rest as JSON, no pickle.

Two files make a state: ``state-STEP.safetensors`` with the tensors, then ``state.json``, which
names it and carries its SHA-256. Replacing ``state.json`` is the one moment at which a new state
takes the place of the old one, so a kill anywhere leaves one whole state.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from lowland.core.errors import InputError
from lowland.core.files import read_json, write_atomically, write_json
from lowland.train.flatten import flatten, unflatten
from lowland.train.history import Row, decode_rows, encode_rows

STATE = "state.json"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class State:
    """Where a run is, complete enough to go on as if it had never stopped.

    Attributes:
        step: updates done.
        model: parameters and buffers by name.
        optimizer: ``optimizer.state_dict()``.
        skipped: updates skipped so far because a gradient was not finite.
        seconds: wall time so far, by what it was spent on.
        rows: history so far.
        definitions: what each measured column means, in words.
        sessions: provenance of every process that worked on the run, with the step it began at.
    """

    step: int
    model: Mapping[str, Tensor]
    optimizer: Any
    skipped: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    definitions: dict[str, str] = field(default_factory=dict)
    sessions: list[dict[str, Any]] = field(default_factory=list)


def tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors in the safetensors format; each is copied, so tied weights are stored twice."""
    from safetensors.torch import save

    return save({name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()})


def save_state(folder: Path, run: str, state: State) -> None:
    """Make `state` the state of the run in `folder`, atomically; the previous one is removed."""
    structure, tensors = flatten({"model": state.model, "optimizer": state.optimizer}, "state")
    payload = tensor_bytes(tensors)
    file = f"state-{state.step}.safetensors"
    body = {
        **{f.name: getattr(state, f.name) for f in dataclasses.fields(state)},
        "rows": encode_rows(state.rows),
        "model": None,
        "optimizer": None,
        "structure": structure,
        "run": run,
        "tensors": {"file": file, "sha256": hashlib.sha256(payload).hexdigest()},
    }
    write_atomically(folder / file, lambda out: out.write(payload))
    write_json(
        folder / STATE,
        {"format": "lowland-state", "version": VERSION, "sha256": _digest(body), "body": body},
    )
    discard(folder, keep=file)


def load_state(folder: Path, run: str) -> State | None:
    """The state of the run in `folder`; None if it has none yet.

    Raises:
        InputError: a file of the state is damaged, missing or of another run; it is named.
    """
    from safetensors.torch import load

    path = folder / STATE
    if not path.exists():
        return None
    body = _read_body(path, run)
    file = folder / body["tensors"]["file"]
    try:
        payload = file.read_bytes()
    except OSError as error:
        raise _damaged(file, f"cannot be read: {error.strerror}") from None
    if hashlib.sha256(payload).hexdigest() != body["tensors"]["sha256"]:
        raise _damaged(file, f"does not have the SHA-256 that {STATE} records")
    # cloned: tensors of their own, aligned as torch allocates them
    tensors = {name: tensor.clone() for name, tensor in load(payload).items()}
    held = unflatten(body["structure"], tensors)
    names = {f.name for f in dataclasses.fields(State)} - {"model", "optimizer", "rows"}
    rows = decode_rows(body["rows"])
    return State(rows=rows, **held, **{name: body[name] for name in names})


def discard(folder: Path, *, keep: str | None = None) -> None:
    """Remove tensor files other than `keep`; without `keep` the whole state, its JSON first."""
    if keep is None:
        (folder / STATE).unlink(missing_ok=True)
    for file in folder.glob("state-*.safetensors"):
        if file.name != keep:
            file.unlink(missing_ok=True)


def _read_body(path: Path, run: str) -> dict[str, Any]:
    document = read_json(path, "state")
    if not isinstance(document, dict) or document.get("format") != "lowland-state":
        raise _damaged(path, "is not a state of lowland")
    if document.get("version") != VERSION:
        raise _damaged(path, f"has format version {document.get('version')}, this is {VERSION}")
    body = document.get("body")
    if not isinstance(body, dict) or document.get("sha256") != _digest(body):
        raise _damaged(path, "does not have the SHA-256 that it records")
    if body["run"] != run:
        raise _damaged(path, f"belongs to run {body['run']}")
    return body


def _digest(body: dict[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _damaged(path: Path, what: str) -> InputError:
    return InputError(f"{path} {what}: nothing was changed; remove {path.parent} to start anew")
