"""SAF and MESA: the sharpness of the trajectory as a loss term, without a pass at w+ε."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax
from torch.optim import Optimizer

from lowland.core.errors import InputError
from lowland.core.perturbation import wide_dtype
from lowland.optim.checks import check_number, check_whole
from lowland.optim.gradient import Gradient, remembered
from lowland.optim.plan import Evaluate, Pass, Program, Update, no_epsilon
from lowland.optim.sharpness_aware import SharpnessAware
from lowland.optim.step import Step, Write

LOGITS = (
    "{} compares logits, and loss_fn returns losses alone: let it return (losses, logits), with "
    "logits of shape (n, classes)"
)
NUMBERS = (
    "SAF looks up what the network said of each example before, so the batch needs the examples' "
    "numbers, 0 to {}, at {!r}: let the data set return its index too, and loss_fn take it"
)
SHAPE = (
    "SAF's record has the shape {} (Ẽ + 1, examples, logits of one), and this batch asks for {}: "
    "examples=, back= and the number of classes stay what they were while a record is kept"
)
RECORD, WRITTEN, AVERAGE = "sam_past_logits", "sam_past_epochs", "sam_average"


def divergence(old: Tensor, new: Tensor, temperature: float) -> Tensor:
    """T²·KL(softmax(old/T) ‖ softmax(new/T)) of each example, shape (n,), in float32 at least.

    No gradient flows to `old`; the one by `new` is T·(softmax(new/T) − softmax(old/T)).
    """
    wide = wide_dtype(new.dtype)
    before = log_softmax(old.detach().to(wide) / temperature, -1)
    after = log_softmax(new.to(wide) / temperature, -1)
    each = kl_div(after, before, reduction="none", log_target=True).flatten(1).sum(1)
    return temperature**2 * each


def _logits(at: Pass, who: str) -> Tensor:
    if not isinstance(at.outputs, Tensor) or at.outputs.ndim < 2:
        raise InputError(LOGITS.format(who))
    return at.outputs


@dataclass(frozen=True)
class PastLogits:
    """[w], with the divergence from the logits of the same examples some epochs ago; λ is ρ.

    The record is a ring of `back` + 1 epochs, shape (back + 1, examples, classes), in the state of
    the first parameter, beside the epoch that each entry is of (counted from 1; 0 is none).

    Attributes:
        examples: n, of the training set.
        steps_per_epoch: optimizer steps in an epoch.
        index: where the batch has the examples' numbers: an index or a key.
        temperature: T.
        back: Ẽ, how many epochs ago.
        dtype: of the record; None is that of the logits.
    """

    examples: int
    steps_per_epoch: int
    index: int | str = 2
    temperature: float = 5.0
    back: int = 3
    dtype: torch.dtype | None = None
    keeps_gradient: ClassVar[bool] = False
    splits: ClassVar[bool] = True
    defaults: ClassVar[tuple[str, ...]] = ("temperature",)
    check = staticmethod(no_epsilon)

    def perturbs(self, count: int, hyper: dict[str, Any]) -> bool:
        return False

    def __call__(self, step: Step) -> Program:
        said: list[tuple[Tensor, Tensor]] = []

        def term(losses: Tensor, at: Pass) -> Tensor:
            logits, numbers = _logits(at, "SAF"), self._numbers(at)
            said.append((numbers.to(logits.device), logits.detach()))
            self._check_record(step, logits)
            if at.radius == 0:
                return losses
            return losses + at.radius * self._since(step, said[-1][0], logits)

        answer = yield Evaluate(term=term)
        self._note(step, said)
        yield Update(answer.gradient)

    unperturbed = __call__  # the record goes on where the term does not

    def _since(self, step: Step, numbers: Tensor, logits: Tensor) -> Tensor:
        """The divergence of each example; 0 where nothing was recorded then."""
        epoch = step.count // self.steps_per_epoch - self.back
        record = remembered(step.state, step.anchor, RECORD)
        written = remembered(step.state, step.anchor, WRITTEN)
        if epoch < 0 or record is None or written is None:
            return torch.zeros(len(logits), device=logits.device)
        slot = epoch % (self.back + 1)
        known = written[slot, numbers] == epoch + 1
        each = divergence(record[slot, numbers], logits, step.hyper["temperature"])
        return torch.where(known, each, torch.zeros_like(each))

    def _note(self, step: Step, said: list[tuple[Tensor, Tensor]]) -> None:
        numbers = step.gather(torch.cat([n for n, _ in said]))
        logits = step.gather(torch.cat([z for _, z in said]))
        epoch, home = step.count // self.steps_per_epoch, step.anchor
        slot = epoch % (self.back + 1)
        now = torch.full_like(numbers, epoch + 1, dtype=torch.int32)
        held = remembered(step.state, home, RECORD)
        logits = logits.to((self.dtype or logits.dtype) if held is None else held.dtype)
        if held is None:
            shape = self._shape(logits)
            record, written = logits.new_zeros(shape), now.new_zeros(shape[:2])
            record[slot, numbers], written[slot, numbers] = logits, now
            step.stage_rows(Write(home, RECORD, record))
            step.stage_rows(Write(home, WRITTEN, written))
            return
        step.stage_rows(Write(home, RECORD, logits, (slot, numbers)))
        step.stage_rows(Write(home, WRITTEN, now, (slot, numbers)))

    def _shape(self, logits: Tensor) -> tuple[int, ...]:
        return (self.back + 1, self.examples, *logits.shape[1:])

    def _check_record(self, step: Step, logits: Tensor) -> None:
        held = remembered(step.state, step.anchor, RECORD)
        if held is not None and held.shape != self._shape(logits):
            raise InputError(SHAPE.format(tuple(held.shape), self._shape(logits)))

    def _numbers(self, at: Pass) -> Tensor:
        try:
            numbers = at.batch[self.index]
        except (KeyError, IndexError, TypeError):
            numbers = None
        good = isinstance(numbers, Tensor) and numbers.ndim == 1
        if good and not (numbers.is_floating_point() or numbers.is_complex()):
            good = numbers.dtype != torch.bool
            numbers = numbers.long()  # small types index as masks, or not at all
        if good and not (numbers.is_floating_point() or numbers.is_complex()):
            # what lies on another device is looked at once: that waits for it
            if numbers.device.type != "cpu" and at.step:
                return numbers  # type: ignore[no-any-return]
            low, high = map(int, numbers.aminmax())
            if low >= 0 and high < self.examples:
                return numbers  # type: ignore[no-any-return]
        raise InputError(NUMBERS.format(self.examples - 1, self.index))


class SAF(SharpnessAware):
    """Du et al. 2022 (arXiv 2205.14083): keep the logits close to those of some epochs ago.

        L + λ·T²·KL(softmax(z_old/T) ‖ softmax(z/T)),   z_old from Ẽ epochs ago, same example

    A flat trajectory in place of a flat ball: no second pass.

    Args:
        examples: number of training examples.
        steps_per_epoch: optimizer steps in an epoch.
        index: where the batch has the examples' numbers: an index or a key.
        rho: λ, under the name that schedules, groups and intervals know; the first group's.
        temperature: T.
        back: Ẽ.
        start: the first step with the term; None is that of epoch 5. The record begins at step 0.
        dtype: of the record; None is that of the logits, ``torch.float16`` half of float32.
        **options: everything that `SharpnessAware` takes, and the base optimizer's arguments.

    λ = 0.3, T = 5, Ẽ = 3 and epoch 5 are those of the authors' run scripts; their argument defaults
    differ. Call as ``opt.step(loss_fn=f, batch=(x, y, index))`` with ``f(x, y, index)`` returning
    (losses, logits). Augmentation may differ between epochs; mixed examples (mixup) have no number.

    Cost: 1 pass. Memory: examples · classes · (Ẽ + 1) numbers (10 GB in float16 for ImageNet), in
    the state of the first parameter, hence in the checkpoint; distributed checkpoints
    (``torch.distributed.checkpoint``) have no place for it, so a run resumed from one has the term
    again after Ẽ epochs. Under DDP the devices gather what they have said, so the record is whole
    on each. Confidence: high, the authors' code agrees.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: type[Optimizer] | Optimizer | None = None,
        *,
        examples: int | None = None,
        steps_per_epoch: int | None = None,
        index: int | str = 2,
        rho: float = 0.3,
        temperature: float = 5.0,
        back: int = 3,
        start: int | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        if examples is None or steps_per_epoch is None:
            raise InputError("SAF counts epochs and examples: give examples= and steps_per_epoch=")
        check_whole("examples", examples, least=1)
        check_whole("steps_per_epoch", steps_per_epoch, least=1)
        check_whole("back", back, least=1)
        _check_temperature(temperature)
        plan = PastLogits(examples, steps_per_epoch, index, temperature, back, dtype)
        start = 5 * steps_per_epoch if start is None else start
        super().__init__(params, base, rho=rho, plan=plan, start=start, **options)


@dataclass(frozen=True)
class AveragedLogits:
    """[w_avg without gradient, w], with the divergence of the second's logits; λ is ρ.

    Attributes:
        decay: d of w_avg ← d·w_avg + (1−d)·w.
        temperature: T.
    """

    decay: float = 0.9998
    temperature: float = 5.0
    keeps_gradient: ClassVar[bool] = False
    splits: ClassVar[bool] = True
    defaults: ClassVar[tuple[str, ...]] = ("decay", "temperature")
    check = staticmethod(no_epsilon)

    def perturbs(self, count: int, hyper: dict[str, Any]) -> bool:
        return False

    def __call__(self, step: Step) -> Program:
        average = self.average(step)
        old = yield Evaluate(at=self._move(average, step), gradient=False, outputs=True)

        def term(losses: Tensor, at: Pass) -> Tensor:
            before = old.outputs[at.number]
            if not isinstance(before, Tensor):
                raise InputError(LOGITS.format("MESA"))
            each = divergence(before, _logits(at, "MESA"), step.hyper["temperature"])
            return losses + at.radius * each

        answer = yield Evaluate(again=True, term=term)
        step.stage(AVERAGE, average, first=True)
        yield Update(answer.gradient)

    def unperturbed(self, step: Step) -> Program:
        """The average goes on where the term does not."""
        average = self.average(step)
        answer = yield Evaluate()
        step.stage(AVERAGE, average, first=True)
        yield Update(answer.gradient)

    def slots(self, step: Step) -> None:
        """A place for the average."""
        step.stage(AVERAGE, self.average(step))

    def average(self, step: Step) -> Gradient:
        """w_avg with the present weights taken in; the weights themselves in a first step."""
        decay = step.hyper["decay"]

        def taken_in(p: Tensor, w: Tensor) -> Tensor:
            wide = w.detach().to(wide_dtype(w.dtype), copy=True)
            held = remembered(step.state, p, AVERAGE)
            return wide if held is None else wide.lerp_(held, decay)

        return step.each(taken_in)

    @staticmethod
    def _move(average: Gradient, step: Step) -> Any:
        weights = [w for part in average for w in part.weights]
        pairs = zip(average.tensors, weights, strict=True)
        return step.displace(average.like([a - w.detach() for a, w in pairs]), 1.0)


class MESA(SharpnessAware):
    """Du et al. 2022 (arXiv 2205.14083): keep the logits close to those of averaged weights.

        L + λ·T²·KL(softmax(z_avg/T) ‖ softmax(z/T)),   w_avg ← d·w_avg + (1−d)·w in every step

    z_avg are the logits of the same batch at w_avg, without gradient; w_avg has taken in w before.
    That forward treats normalization layers as `bn_second` says of passes away from w: by
    default with the statistics of the batch, leaving the running ones alone.

    Args:
        rho: λ, under the name that schedules, groups and intervals know; the first group's.
        decay: d.
        temperature: T.
        **options: everything that `SharpnessAware` takes, and the base optimizer's arguments.

    λ = 0.8, T = 5, d = 0.9998 are those of the authors' run script. Call as
    ``opt.step(loss_fn=f, batch=...)`` with f returning (losses, logits).

    Cost: 1 pass and a forward. Memory: w_avg (float32 at least), and two to three copies of the
    parameters for the time of its forward. Confidence: high, the authors' code agrees.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: type[Optimizer] | Optimizer | None = None,
        *,
        rho: float = 0.8,
        decay: float = 0.9998,
        temperature: float = 5.0,
        **options: Any,
    ) -> None:
        _check_temperature(temperature)
        if not 0 <= decay < 1:
            raise InputError(f"decay is {decay}: give a number in [0, 1)")
        super().__init__(params, base, rho=rho, plan=AveragedLogits(decay, temperature), **options)


def _check_temperature(temperature: float) -> None:
    check_number("temperature", temperature, least=0.0)
    if temperature == 0:
        raise InputError("temperature is 0: logits are divided by it; give a number above 0")
