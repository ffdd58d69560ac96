"""All instruments on one network, with progress, and with every obstacle said before the work."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lowland.core.errors import InputError
from lowland.core.records import Measurement
from lowland.data import Examples
from lowland.inspection.inputs import Inputs
from lowland.inspection.probing import Probe, check_memory, check_seen, probe
from lowland.inspection.request import Request
from lowland.inspection.subject import Subject, channels_of
from lowland.measure import Instrument, MeanLoss, inspect_model, matching_blocks

FEATURES = ("features", "labelled features")
LABELS = ("labelled features", "loss")

Tell = Callable[[str], object]
"""Called with what is being done, in words."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Finding:
    """What was found on one network.

    Attributes:
        subject: the network, on its device.
        examples: what it was measured on.
        blocks: block -> instrument -> record, blocks in the network's order.
        model: instrument -> record over the whole network.
        capturing: what was taken of each block.
        device: where it ran.
        seconds: wall time of the instruments.
        notes: what the reader should know, in whole sentences.
    """

    subject: Subject
    examples: Examples
    blocks: dict[str, dict[str, Measurement]]
    model: dict[str, Measurement]
    capturing: dict[str, Any]
    device: str
    seconds: float
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A network and its inputs, ready to be measured."""

    subject: Subject
    examples: Examples
    inputs: Inputs
    blocks: list[str]
    capturing: dict[str, Any]
    device: str
    notes: tuple[str, ...]

    @property
    def glob(self) -> str:
        """The chosen blocks, by name."""
        return ",".join(self.blocks)


def prepare(subject: Subject, examples: Examples, request: Request, tell: Tell) -> Prepared:
    """Find out, on two examples, whether everything that is asked can be measured.

    Raises:
        InputError: it cannot, and why.
    """
    _check_inputs(subject, examples)
    device = chosen_device(request.device)
    subject.module.to(device)
    if not any(True for _ in subject.module.children()):
        raise InputError(f"{subject.name} is one module without others in it: it has no blocks")
    blocks = matching_blocks(subject.module, request.blocks or subject.blocks)
    examples, batch_size, notes = _fixed(subject, examples, request)
    if asks(request, FEATURES):
        check_seen(subject, blocks)
    dtype = _dtype(subject)
    few = Inputs(subject, examples.first(subject.batch or 2), batch_size, dtype=dtype)
    found = probe(subject, next(iter(few)), blocks)
    _check_labels(subject, examples, request, found)
    notes += _classes(subject, examples, request, found)
    _check_finite(subject, request, found)
    capturing = _capturing(subject, request, found)
    if asks(request, FEATURES) and not capturing:
        check_memory(subject, found.bytes_per_example * examples.n, examples.n)

    def at(done: int) -> None:
        tell(f"{_short(subject)}: batch {done} of {len(inputs)}")

    inputs = Inputs(subject, examples, batch_size, dtype=dtype, tell=at)
    return Prepared(subject, examples, inputs, blocks, capturing, device, notes)


def measure(ready: Prepared, request: Request, tell: Tell) -> Finding:
    """Everything that is asked, features in one pass, then each instrument of its own.

    Raises:
        InputError: what the instruments raise, or memory that is not enough.
    """
    blocks: dict[str, dict[str, Measurement]] = {name: {} for name in ready.blocks}
    model: dict[str, Measurement] = {}
    seconds = 0.0
    for group in _groups(request.instruments):
        names = ", ".join(instrument.name for instrument in group)
        tell(f"{_short(ready.subject)}: {names}")
        with _clear(ready.subject, names):
            found = inspect_model(
                ready.subject.module,
                ready.inputs,
                [instrument.name for instrument in group],
                blocks=ready.glob,
                loss_fn=per_example,
                options=request.options,
                capturing=ready.capturing,
                device="model" if ready.device != "cpu" else "cpu",
            )
        seconds += found.seconds
        model |= found.model
        for block, row in found.blocks.items():
            blocks[block] |= row
    return Finding(
        subject=ready.subject,
        examples=ready.examples,
        blocks=blocks,
        model=model,
        capturing=ready.capturing,
        device=ready.device,
        seconds=seconds,
        notes=(*ready.subject.notes, *ready.notes, *_guessing(model, ready.examples)),
    )


def per_example(outputs: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of every example, in float32 at least."""
    wide = outputs.float() if outputs.dtype.itemsize < 4 else outputs
    return cross_entropy(wide, labels, reduction="none")


def asks(request: Request, kinds: Sequence[str]) -> bool:
    """Whether an instrument that looks at one of these is asked for."""
    return any(instrument.looks_at in kinds for instrument in request.instruments)


def chosen_device(name: str) -> str:
    """A device that is there, by its name or "auto"."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise InputError(f"--device {name}: use auto, cpu, cuda or cuda:N")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "cuda" and int(number or 0) >= count:
        there = f"{count} GPUs are there" if count else "no GPU that torch can use is there"
        raise InputError(f"--device {name}: {there}; use --device cpu or auto")
    return name


def _short(subject: Subject) -> str:
    return subject.name.rstrip("/").rpartition("/")[2]


def _groups(instruments: Sequence[Instrument]) -> list[list[Instrument]]:
    """All instruments of features together, for one pass; every other one by itself."""
    features = [i for i in instruments if i.looks_at in FEATURES]
    others = [[i] for i in instruments if i.looks_at not in FEATURES]
    return [features, *others] if features else others


def _check_inputs(subject: Subject, examples: Examples) -> None:
    if subject.reads != examples.kind:
        raise InputError(
            f"{subject.name} reads {subject.reads}, {examples.name} holds {examples.kind}: give "
            "other data"
        )
    if subject.reads == "images" and subject.preprocessing is None:
        raise InputError(
            f"nothing says how {subject.name} wants its images: give --mean and --std as it was "
            "trained with (ImageNet's are 0.485,0.456,0.406 and 0.229,0.224,0.225; many ViTs 0.5 "
            "and 0.5), and --size"
        )
    wanted = channels_of(subject.module)
    said = subject.preprocessing.channels if subject.preprocessing else None
    if wanted is not None and said is not None and wanted != said:
        raise InputError(
            f"{subject.name} takes images of {wanted} channels, --mean and --std have {said}: give "
            f"{wanted} numbers"
        )


def _fixed(
    subject: Subject, examples: Examples, request: Request
) -> tuple[Examples, int, tuple[str, ...]]:
    """Examples and batch size; programs that are fixed to one batch size get whole batches."""
    if subject.batch is None:
        return examples, request.batch_size, ()
    size = subject.batch
    n = examples.n // size * size
    if not n:
        raise InputError(
            f"{subject.name} was exported for batches of {size}, the data has {examples.n} "
            "examples: give more, or export it with a batch size that may vary"
        )
    note = f"It was exported for batches of {size}, so {n} of {examples.n} examples were used."
    return examples.first(n), size, (note,) if n < examples.n else ()


def _dtype(subject: Subject) -> torch.dtype:
    floating = (p.dtype for p in subject.module.parameters() if p.is_floating_point())
    return next(floating, torch.float32)


def _check_labels(subject: Subject, examples: Examples, request: Request, found: Probe) -> None:
    for instrument in request.instruments:
        if instrument.looks_at in LABELS and examples.labels is None:
            raise InputError(
                f"{instrument.name} needs labels, {examples.name} has none: leave it out of --what"
            )
        if instrument.looks_at != "loss":
            continue
        if not subject.logits or found.outputs is None or len(found.outputs) != 1:
            raise InputError(
                f"{instrument.name} needs one output per class, {subject.name} gives none: leave "
                "it out of --what"
            )
        assert examples.labels is not None
        classes, largest = found.outputs[0], int(examples.labels.max())
        if largest >= classes:
            raise InputError(
                f"{instrument.name}: {examples.name} has label {largest}, {subject.name} has "
                f"{classes} outputs (0 to {classes - 1}): give the data of its own classes"
            )


def _classes(
    subject: Subject, examples: Examples, request: Request, found: Probe
) -> tuple[str, ...]:
    """A word where the data has fewer classes than the network: their numbers may not be its own.

    The three folders of a part of ImageNet are 0, 1 and 2, whichever classes they are.
    """
    if not asks(request, ("loss",)) or found.outputs is None or examples.classes is None:
        return ()
    outputs = found.outputs[0]
    if examples.classes >= outputs:
        return ()
    return (
        f"It has {outputs} outputs, the data {examples.classes} classes, taken as its first ones: "
        "losses and errors are right only if these are the same classes in the same order.",
    )


def _check_finite(subject: Subject, request: Request, found: Probe) -> None:
    if not found.finite and asks(request, FEATURES):
        raise InputError(
            f"{subject.name} computes NaN or infinity on the first examples: it has diverged, or "
            "its inputs are scaled otherwise; --what loss,weight-norm can still be measured"
        )


def _capturing(subject: Subject, request: Request, found: Probe) -> dict[str, Any]:
    """What to take of each block: what was asked for, else the network's own choice of tokens."""
    chosen: dict[str, Any] = {}
    if not asks(request, FEATURES):
        return chosen
    if request.where != "output":
        chosen["where"] = request.where
    tokens = request.tokens
    if tokens is None and 3 in found.dimensions and subject.tokens is not None:
        tokens = subject.tokens
    if tokens not in (None, "flatten"):
        chosen["tokens"] = tokens
    if request.spatial != "flatten":
        chosen["spatial"] = request.spatial
    return chosen


def notes_on(examples: Examples) -> tuple[str, ...]:
    """What the reader should know of the examples, in whole sentences."""
    if examples.labels is None or examples.classes is None:
        return ()
    seen = len(set(examples.labels.tolist()))
    if seen >= min(examples.classes, examples.n) / 2:  # fewer is no chance
        return ()
    turn = "" if "turn" in examples.order else "; --order classes takes them in turn"
    return (f"The {examples.n} examples are of {seen} of {examples.classes} classes{turn}.",)


def _guessing(model: dict[str, Measurement], examples: Examples) -> tuple[str, ...]:
    """A hint where the error is that of guessing: nearly always a matter of preprocessing."""
    chance = 1 - 1 / (examples.classes or 1)
    losses = (record for record in model.values() if isinstance(record, MeanLoss))
    errors = (record.error for record in losses)  # elsewhere `error` is a rise, or a bound
    guessed = [e for e in errors if e is not None and chance > 0 and e >= 0.98 * chance]
    if not guessed:
        return ()
    return (
        f"Its error, {100 * guessed[0]:.0f}%, is that of guessing: check --mean, --std, --size and "
        "the order of the classes, unless it is untrained.",
    )


@contextlib.contextmanager
def _clear(subject: Subject, names: str) -> Iterator[None]:
    """Turn want of memory into one line, and put the network's name before what is refused."""
    where = f"{subject.name}, {names}"
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    except (MemoryError, RuntimeError) as error:  # torch's OutOfMemoryError is a RuntimeError
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        raise InputError(
            f"{where}: memory ran out: use a smaller --batch-size, fewer --examples or fewer "
            "--blocks"
        ) from None
