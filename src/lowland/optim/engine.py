"""The engine: one driver of plans, behind every way of calling the optimizer.

All that changes while training lives either in the parameter groups and per-parameter state, which
checkpoints carry, or in this one object, which is made once: wrappers that copy or hide the
optimizer's attributes still share it.
"""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lowland.core.errors import InputError
from lowland.core.perturbation import mark_non_finite
from lowland.optim.checks import check_common, check_group, check_parts
from lowland.optim.descent import confirm, drop_own_state, take_base_step
from lowland.optim.devices import Devices
from lowland.optim.displacement import Displacement, Move
from lowland.optim.evaluators import (
    BatchEvaluator,
    ClosureEvaluator,
    ForeignGradients,
    NothingDoneError,
    only,
)
from lowland.optim.gradient import Gradient, Group, Part, clear, collect, put
from lowland.optim.origin import check_home, go_home
from lowland.optim.perturbation import Perturbation
from lowland.optim.plan import (
    Evaluate,
    Evaluation,
    LossTerm,
    Plan,
    Program,
    Update,
    plain_step,
    shared_names,
)
from lowland.optim.record import StepRecord
from lowland.optim.rng import GlobalRandomState
from lowland.optim.scaling import LossScale, Scaling
from lowland.optim.selections import Everything
from lowland.optim.statistics import RunningStatistics
from lowland.optim.step import Step
from lowland.optim.transforms import State

SKIPPED_BATCH = (
    "the closure returned None and made no gradients, so there was nothing to step along: nothing "
    "was done (this is said once)"
)

Evaluator = ClosureEvaluator | BatchEvaluator


@dataclass
class Engine:
    """Settings and moving parts of one optimizer; see `SharpnessAware` for what they mean."""

    base: Optimizer
    perturbation: Perturbation
    plan: Plan
    loss_terms: tuple[LossTerm, ...]
    model: nn.Module | None
    statistics: RunningStatistics
    on_device: bool
    replay_rng: bool
    schedule: Callable[[int], float] | None
    split_over: Any = None

    def __post_init__(self) -> None:
        self.devices = Devices(self.model, self.perturbation.across, self.split_over)
        self.loss_scale = LossScale()
        lean = getattr(self.plan, "draws_tensors", False)
        self.displacement, self.origin = Displacement(lean), Displacement()
        self.random = GlobalRandomState()
        self.foreign = ForeignGradients()
        self.last: StepRecord | None = None
        self.owns_state = self.has_slots = False
        self.running = self.away = False
        self._standing: Gradient | None = None
        self._chosen: tuple[list[Tensor], set[Tensor]] | None = None
        self._warned: set[str] = set()

    # What the settings say

    @property
    def groups(self) -> list[Group]:
        return self.base.param_groups

    @property
    def state(self) -> State:
        return self.base.state

    @property
    def device(self) -> torch.device:
        first: Tensor = next(p for group in self.groups for p in group["params"])
        return first.device

    @property
    def reads_freely(self) -> bool:
        """Whether the host may look at numbers without waiting for a device."""
        return self.device.type == "cpu"

    @property
    def keeps_gradient(self) -> bool:
        transform = self.perturbation.transform
        return self.plan.keeps_gradient or (transform is not None and transform.remembers)

    @property
    def relative_guard(self) -> float:
        transform = self.perturbation.transform
        return 0.0 if transform is None else transform.relative_guard

    def factor(self) -> float:
        """What the schedule makes of ρ in this step."""
        if self.schedule is None:
            return 1.0
        factor = float(self.schedule(self.groups[0]["sam_step"]))
        if not (math.isfinite(factor) and factor >= 0):
            raise InputError(f"the ρ schedule gave {factor}: it must be finite and not negative")
        return factor

    def acts(self) -> bool:
        """Whether the method acts in this step at all: within start, end and every, ρ not 0."""
        hyper = self.groups[0]
        since = hyper["sam_step"] - hyper["start"]
        ended = hyper["end"] is not None and hyper["sam_step"] >= hyper["end"]
        if since < 0 or ended or since % hyper["every"]:
            return False
        return self.factor() > 0 and any(group["rho"] > 0 for group in self.groups)

    def perturbs(self) -> bool:
        """Whether the coming step has a pass at w+ε."""
        hyper = self.groups[0]
        return self.acts() and self.plan.perturbs(hyper["sam_step"] - hyper["start"], hyper)

    def direction(self, part: Part) -> Part:
        """d of one group."""
        transform = self.perturbation.transform
        if transform is None:
            return part
        return Part(part.group, part.params, transform.direction(part, self.state))

    def select(self, gradient: Gradient, found: Tensor | None) -> Gradient:
        """The tensors that move; the finiteness of the others goes into `found`."""
        selection = self.perturbation.selection
        if isinstance(selection, Everything):
            return gradient
        chosen = self.selected()
        if found is not None:
            mark_non_finite(gradient.where(lambda p: p not in chosen).tensors, found)
        return gradient.where(lambda p: p in chosen)

    def selected(self) -> set[Tensor]:
        """The parameters that may move."""
        params = [p for group in self.groups for p in group["params"]]
        known = [] if self._chosen is None else self._chosen[0]
        if len(known) != len(params) or not all(map(operator.is_, known, params)):
            chosen = set(self.perturbation.selection(self.model, params))
            if not chosen:
                raise InputError(
                    "the selection leaves nothing to perturb: none of the selected parameters of "
                    "the model is in the optimizer"
                )
            self._chosen = (params, chosen)
        assert self._chosen is not None
        return self._chosen[1]

    def check_settings(self) -> None:
        """Selections, radii and intervals, said to be wrong before training starts."""
        for group in self.groups:
            check_group(group)
        check_common(self.groups, shared_names(self.plan))
        self.devices.meet([p for group in self.groups for p in group["params"]])
        keeps = self.devices.replicas.local and self.keeps_gradient
        check_parts(self.plan, self.perturbation, kept_locally=keeps)
        if not isinstance(self.perturbation.selection, Everything):
            self.selected()

    # The step

    def begin(self, examples: int | None = None, scaling: Scaling | None = None) -> Step:
        """A new step at the present weights, which are w."""
        check_home(self)
        for group in self.groups:
            check_group(group)
        self.devices.meet([p for group in self.groups for p in group["params"]])
        self.loss_scale.begin()
        if self.has_slots:  # they were never filled from a checkpoint
            drop_own_state(self)
        return Step(self, self.factor(), examples, scaling)

    def program(self, step: Step) -> Program:
        """The plan of this step; where the method does not act, what the plan is without ε."""
        rest = getattr(self.plan, "unperturbed", plain_step)
        return self.plan(step) if self.acts() else rest(step)

    @torch.no_grad()
    def run(self, evaluator: Evaluator, scaling: Scaling | None = None) -> Any:
        """A whole step by evaluating; returns the loss at w."""
        if self.running:
            raise RuntimeError("step() inside the closure of step(): call it once, outside")
        step = self.begin(evaluator.examples, scaling)
        step.micro_batches, step.sizes = evaluator.micro_batches, evaluator.sizes
        closure = isinstance(evaluator, ClosureEvaluator)
        if closure:
            self.foreign.before(self.groups)
        returned: list[Any] = []
        program = self.program(step)
        self.running = True
        try:
            request = next(program)
            while isinstance(request, Evaluate) and not step.bad:
                request = program.send(self._evaluate(request, evaluator, step, returned))
        except StopIteration:
            raise RuntimeError("the plan ended without an Update: end it with one") from None
        except NothingDoneError:
            self.warn_once(SKIPPED_BATCH)
            self.loss_scale.end()
            return None
        finally:
            try:
                go_home(self)
            except BaseException:  # as in `_evaluate`
                go_home(self)
                raise
            finally:
                self.running = False
                program.close()
        self.finish(step, request)
        return returned[0] if closure else step.loss.value

    def _evaluate(
        self, request: Evaluate, evaluator: Evaluator, step: Step, returned: list[Any]
    ) -> Evaluation:
        away = request.at is not None
        exchange = not (request.ascent and self.devices.replicas.local)
        self._standing = None
        clear(self.groups)
        if not returned:
            self.foreign.plant()
        try:
            if request.at is not None:
                watch, freeze = bool(returned) or step.count > 0, not request.for_w
                self.depart(request.at, watch=watch, freeze=freeze)
            elif request.frozen or self.origin.displaced:
                self.statistics.begin()
            if self.replay_rng:
                again = returned and (away or request.again)
                self.random.replay() if again else self.random.record(self.device)
            with torch.enable_grad(), self.devices.exchange(exchange), only(request, self.groups):
                outcome = evaluator(request, exchange)
            loss = outcome.loss
            if loss is None:
                self._refuse_none(first=not returned)
            if isinstance(loss, Tensor):
                loss = loss.detach()  # lets go of the graph before the second pass builds its own
            if not returned:
                self.foreign.after(loss)
            if step.scaling is not None and request.gradient:
                step.scaling.unscale(self.groups)
        except BaseException:
            clear(self.groups)
            raise
        finally:
            try:
                self.come_back()
            except BaseException:  # a second Ctrl-C, while coming back: finish that first
                self.come_back()
                raise
        returned.append(loss)
        if request.gradient and request.data is None and not self.origin.displaced:
            kept = step.loss if request.for_w or not away else step.perturbed_loss
            kept.add(loss, outcome.examples)
        found = Gradient([])
        if request.gradient and request.only is not None:
            found = collect(self.groups)  # which may be none of those in the loss
        elif request.gradient:
            found = self.standing("the closure or loss function")
        return Evaluation(found, loss, outcome.examples, outcome.losses, outcome.outputs)

    def _refuse_none(self, first: bool) -> None:
        if first and self.last is not None and not collect(self.groups).parts:
            raise NothingDoneError
        raise RuntimeError("the closure returned None: end it with `return loss`")

    def standing(self, whose: str) -> Gradient:
        """The gradients in ``.grad``, which there must be."""
        gradient = collect(self.groups)
        if not gradient.parts:
            raise RuntimeError(f"{whose} made no gradients: call backward() on the loss")
        self._standing = gradient
        return gradient

    def release(self) -> None:
        """Let go of what stood in ``.grad``."""
        self._standing = None

    def depart(self, move: Move, *, watch: bool = True, freeze: bool = True) -> None:
        """To w+ε. The directions are let go, so that their memory serves the second pass."""
        self._standing = None
        self.away = True
        if freeze:
            self.statistics.begin(watch=watch)
        if self.devices.shards.split:
            self.devices.gathered.release()
        self.displacement.go(move)
        torch.clear_autocast_cache()  # it holds half-precision copies of w
        move.clear()

    def come_back(self) -> None:
        """Back from w+ε, with running statistics and random state as they were. Idempotent."""
        if self.displacement.displaced:
            self.displacement.come_back()
            if self.devices.shards.split:
                self.devices.gathered.release()
            torch.clear_autocast_cache()
        self.statistics.end()
        self.random.resume()
        self.away = self.origin.displaced

    def finish(self, step: Step, request: Evaluate | Update) -> None:
        """Descend along u, or skip the step if anything was not finite."""
        if step.bad or not isinstance(request, Update):
            step.found.fill_(1.0)
            return self.skip(step)
        u = request.gradient
        if u is not self._standing:
            put(u, self.groups)
        self._standing = None
        if request.drift is not None:
            mark_non_finite(request.drift.tensors, step.found)
        if step.known_bad(u, host=not self.on_device):
            return self.skip(step)
        confirm(self, step, u)
        if self.on_device:
            self._report(step)
        writes, hypers = step.new_state(), step.new_hypers()
        take_base_step(self, step, request.drift)
        for write in writes:
            write.into(self.state)
        for group in self.groups if hypers else ():
            group.update(hypers)
        self._count(skipped=step.found if self.on_device else 0)
        skipped = step.found > 0 if self.on_device else False
        self.last = step.record(skipped, self.groups[0]["sam_skipped"])
        self.foreign.leave(self.groups)

    def skip(self, step: Step) -> None:
        """Take no step: count it, and say so once."""
        self._standing = None
        confirm(self, step, None)
        self._report(step)
        self._count(skipped=1)
        total = self.groups[0]["sam_skipped"]
        self.last = step.record(True, total)
        self.foreign.leave(self.groups)
        self.warn_once(
            "a gradient or its norm was not finite: weights and state are as before, the step was "
            "skipped (opt.last.skipped_total counts such steps; this is said once)"
        )

    def _report(self, step: Step) -> None:
        """Tell this process's scaler what others may have found."""
        if step.scaling is not None and not self.devices.together:
            step.scaling.report(step.found)

    def _count(self, skipped: int | Tensor) -> None:
        self.loss_scale.end()
        for group in self.groups:
            group["sam_step"] += 1
            group["sam_skipped"] = group["sam_skipped"] + skipped

    def warn_once(self, message: str) -> None:
        """A RuntimeWarning, the first time only."""
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(message, RuntimeWarning, stacklevel=5)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles take the settings; what belongs to a moment starts anew."""
        if self.displacement.displaced or self.origin.displaced:
            raise RuntimeError("the weights are at w+ε: finish the step before copying it")
        return {
            **self.__dict__,
            "random": GlobalRandomState(),
            "foreign": ForeignGradients(),
            "_standing": None,
            "_chosen": None,
        }
