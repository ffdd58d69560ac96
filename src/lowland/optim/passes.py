"""The second pass in the user's hands: ``with opt.perturbed()``, ``first_step``/``second_step``.

The same plan runs as with a closure, but its evaluations are the user's own backward passes: the
gradient at w is what stands in ``.grad`` on entering, the one at w+ε what stands there on leaving.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from lowland.core.errors import InputError
from lowland.optim.checkpoints import make_slots
from lowland.optim.engine import Engine
from lowland.optim.gradient import Gradient, WeightedMean, clear, collect, put
from lowland.optim.plan import Evaluate, Evaluation, Program, plain_step
from lowland.optim.record import MeanLoss
from lowland.optim.scaling import SCALER_FOR_PASS, STEP_BY_SCALER, Handoff, Scaling
from lowland.optim.step import Step

NESTED = (
    "{} inside the closure of step(): the optimizer makes both passes itself, the closure is "
    "zero_grad, forward, backward, return loss"
)
NO_PASS = (
    "step() without a perturbed pass: run the second forward and backward inside "
    "`with optimizer.perturbed():`, or between first_step() and second_step(), or call "
    "step(closure)"
)
SPLITS = "this method evaluates parts of the batch: call step(loss_fn=..., batch=...)"
TERMS = "loss terms see the loss only in step(loss_fn=..., batch=...)"
CLOSURE = (
    "this method makes other passes than one at w and one at w+ε, so it has to make them itself: "
    "call step(closure) or step(loss_fn=..., batch=...)"
)
REPLAY = "replay_rng=True must see both passes: call step(closure) or step(loss_fn=..., batch=...)"
UNFINISHED = (
    "the last perturbed pass was never followed by step(): weights are back at w, its gradient is "
    "dropped"
)
UNNEEDED = (
    "this step needs no second pass; its gradient is not used (ask optimizer.needs_perturbation "
    "first to save the time; this is said once)"
)


MIXED = "divided= differs between the micro-batches of one step: say the same for all of them"


def check_whole(engine: Engine) -> None:
    """Refuse evaluations that are the caller's own where the method needs the examples.

    Raises:
        RuntimeError: the method evaluates parts of the batch, or has loss terms.
    """
    if engine.plan.splits:
        raise RuntimeError(getattr(engine.plan, "asks", SPLITS))
    if engine.loss_terms:
        raise RuntimeError(TERMS)


@dataclass(frozen=True)
class PassSettings:
    """What the caller says of one perturbed pass; see `SharpnessAware.perturbed`."""

    last: bool = True
    examples: float = 1.0
    divided: bool = False
    scaling: Scaling | None = None
    loss: Any = None


@dataclass
class OpenPass:
    """A step whose second pass is under way, or done and waiting for ``step()``."""

    step: Step
    program: Program
    two_step: bool
    settings: PassSettings
    inside: bool = True
    held: Gradient | None = None  # the gradient at w, where no second pass is needed
    more: bool = False  # left with last=False (or failed after one): micro-batches follow


@dataclass
class UserPasses:
    """Runs a plan of exactly [w, w+ε] on gradients that the user's backward passes leave."""

    engine: Engine
    open: OpenPass | None = field(default=None)
    watch: contextlib.ExitStack | None = field(default=None)

    @torch.no_grad()
    def enter(self, *, two_step: bool, settings: PassSettings) -> None:
        """From w to w+ε, along the gradient in ``.grad``, which is cleared."""
        engine = self.engine
        if engine.running:
            raise RuntimeError(NESTED.format("a perturbed pass"))
        step = self._step_to_continue(two_step, settings)
        check_whole(engine)
        if getattr(engine.plan, "needs_closure", False):
            raise RuntimeError(CLOSURE)
        if engine.replay_rng:
            raise RuntimeError(REPLAY)
        engine.devices.replicas.check_synchronised()
        stale = step is None and self.open is not None
        if stale:
            self.abandon()
            clear(engine.groups)
            self.open = self._unperturbed(two_step, settings)
            return
        perturbs = engine.perturbs()
        step = step or self._begin(settings)
        if perturbs and settings.scaling is not None:
            settings.scaling.unscale(engine.groups)
        gradient = engine.standing("no backward() before the perturbed pass: it")
        step.loss.add(settings.loss, settings.examples)
        if not perturbs:
            engine.warn_once(UNNEEDED)
            program = engine.program(step)
            next(program)
            # a gradient that devices have not exchanged is nothing to descend along
            held = None if engine.devices.replicas.local else gradient
            self.open = OpenPass(step, program, two_step, settings, held=held)
            clear(engine.groups)
            return
        program = engine.program(step)
        next(program)
        request = program.send(Evaluation(gradient, None, settings.examples))
        self.open = OpenPass(step, program, two_step, settings)
        del gradient
        clear(engine.groups)
        assert isinstance(request, Evaluate)
        assert request.at is not None
        if step.bad:  # the user's pass runs at w, and step() skips
            request.at.clear()
        engine.depart(request.at)
        self.watch = contextlib.ExitStack()
        self.watch.enter_context(engine.devices.looking())

    def _begin(self, settings: PassSettings) -> Step:
        step = self.engine.begin(scaling=settings.scaling)
        if settings.divided:
            step.second = WeightedMean(summed=True)
            step.loss, step.perturbed_loss = MeanLoss(summed=True), MeanLoss(summed=True)
        return step

    def _unperturbed(self, two_step: bool, settings: PassSettings) -> OpenPass:
        """A step at w alone, where the gradient at hand belongs to other weights."""
        step = self._begin(settings)
        program = plain_step(step)
        next(program)
        return OpenPass(step, program, two_step, settings)

    def _step_to_continue(self, two_step: bool, settings: PassSettings) -> Step | None:
        """The step in progress, if this is its next micro-batch; None for a new step."""
        current = self.open
        if current is None:
            return None
        if current.more:
            if current.settings.divided != settings.divided:
                raise InputError(MIXED)
            if (current.step.scaling is None) != (settings.scaling is None):
                raise RuntimeError(SCALER_FOR_PASS)
            return current.step
        if current.inside and not (current.two_step and two_step):
            self.leave(failed=True)
            raise RuntimeError(
                "a perturbed pass inside a perturbed pass: leave perturbed(), or finish with "
                "second_step(), before the next one (weights are back at w)"
            )
        if not current.inside:  # done, and step() never came: what stands in .grad is new
            current.program.close()
            self.open = None
            self.engine.warn_once(UNFINISHED)
        return None

    @torch.no_grad()
    def leave(self, *, failed: bool = False) -> None:
        """Back to w, exactly; g̃ is left in ``.grad``, or goes to the mean if more follow."""
        engine, current = self.engine, self.open
        try:
            engine.come_back()
        except BaseException:
            engine.come_back()
            raise
        watch, self.watch = self.watch, None
        if watch is not None:
            watch.close()
        if current is None:
            return
        current.inside = False
        if failed:
            current.program.close()
            clear(engine.groups)
            current.step.bad = current.more = bool(current.step.second.weight)
            if not current.more:
                self.open = None
            return
        if current.held is not None:
            put(current.held, engine.groups)
        self._take_in(current)

    def _take_in(self, current: OpenPass) -> None:
        mean, groups, last = current.step.second, self.engine.groups, current.settings.last
        if current.step.bad:  # nothing of this step will be used; step() skips and says so
            current.more = not last
            return
        if last and not mean.weight:
            return
        if current.settings.scaling is not None:
            current.settings.scaling.check_scaled()
        mean.add(self.engine.standing("the perturbed pass"), current.settings.examples)
        self.engine.release()
        clear(groups)
        if last:
            put(mean.value(final=True), groups)
        else:
            current.program.close()
        current.more = not last

    @property
    def waiting(self) -> bool:
        """Whether the perturbed passes of a step are done and ``step()`` is to come."""
        return self.open is not None and not (self.open.inside or self.open.more)

    @torch.no_grad()
    def finish(self, handoff: Handoff | None = None) -> None:
        """``step()`` without arguments: descend along what stands in ``.grad``.

        Args:
            handoff: what the scaler has to say, if this is ``scaler.step(optimizer)``.
        """
        engine, current = self.engine, self.open
        if engine.running:
            raise RuntimeError(NESTED.format("step()"))
        if engine.loss_terms:
            raise RuntimeError(TERMS)
        engine.devices.replicas.check_synchronised()
        if current is not None and (current.step.scaling is None) != (handoff is None):
            raise RuntimeError(STEP_BY_SCALER if handoff is None else SCALER_FOR_PASS)
        if current is not None and current.inside:
            if not current.two_step:
                raise RuntimeError("step() inside perturbed(): leave the block first")
            self.leave()
        if current is not None and current.more:
            raise RuntimeError(
                "step() after perturbed(last=False): the last micro-batch has to come without "
                "last=False"
            )
        if current is None:
            if self._only_makes_state():
                engine.base.step()
                make_slots(engine)
                return
            if engine.perturbs():
                own = getattr(engine.plan, "needs_closure", False)
                raise RuntimeError(CLOSURE if own else NO_PASS)
            step = engine.begin()
            program = engine.program(step)
            next(program)
        else:
            step, program = current.step, current.program
        if step.bad:
            step.found.fill_(1.0)
            self.open = None
            program.close()
            engine.skip(step)
            return
        gradient = engine.standing("no backward() came before step(): it")
        if handoff is not None:
            handoff.unscale(gradient.tensors, step.found)
        self.open = None
        try:
            request = program.send(Evaluation(gradient, None, 1))
            del gradient
            engine.finish(step, request)
        finally:
            program.close()

    def _only_makes_state(self) -> bool:
        """Whether this is how distributed checkpoints make a fresh optimizer fill its state: a
        step at learning rate 0 along zero gradients."""
        groups = self.engine.groups
        if any(float(group.get("lr", 1.0)) != 0.0 for group in groups):
            return False
        gradient = collect(groups)
        return bool(gradient.parts) and not any(bool(t.any()) for t in gradient.tensors)

    def abandon(self, quietly: bool = False) -> None:
        """Give up a pass that was never finished: weights at w, gradients dropped, said once."""
        current = self.open
        if current is None:
            return
        self.leave(failed=True)
        self.open = None
        if not quietly:
            self.engine.warn_once(UNFINISHED)


class PerturbedPass:
    """What ``with opt.perturbed():`` enters and leaves."""

    def __init__(self, passes: UserPasses, settings: PassSettings) -> None:
        self._passes, self._settings = passes, settings

    def __enter__(self) -> PerturbedPass:
        try:
            self._passes.enter(two_step=False, settings=self._settings)
        except BaseException:  # also an interrupt when already at w+ε: __exit__ will not run
            self._passes.leave(failed=True)
            raise
        return self

    def record(self, loss: Any) -> None:
        """Let ``opt.last`` have the loss at w+ε of this pass (and sharpness, with ``loss=``)."""
        current = self._passes.open
        if current is not None:
            value = loss.detach() if isinstance(loss, Tensor) else loss
            current.step.perturbed_loss.add(value, self._settings.examples)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._passes.leave(failed=kind is not None)
        except BaseException:  # an interrupt on the way: finish coming back, drop the step
            self._passes.leave(failed=True)
            raise
