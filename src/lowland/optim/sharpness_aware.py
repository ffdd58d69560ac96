"""`SharpnessAware`: any member of the family over any ``torch.optim`` optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lowland.core.errors import InputError
from lowland.optim.base import AsOptimizer, check_names, make_base, skips_on_device
from lowland.optim.checkpoints import load_state
from lowland.optim.checks import check_common, check_group, one_of_each
from lowland.optim.engine import Engine
from lowland.optim.evaluators import (
    Backward,
    BatchEvaluator,
    Closure,
    ClosureEvaluator,
    LossFn,
    does_nothing,
    scaled_backward,
)
from lowland.optim.passes import PassSettings, PerturbedPass, UserPasses, check_whole
from lowland.optim.perturbation import Perturbation
from lowland.optim.plan import LossTerm, Plan, TwoPass, shared_names
from lowland.optim.scaling import CLOSURE_BY_SCALER, STEP_BY_SCALER, Handoff
from lowland.optim.statistics import RunningStatistics
from lowland.optim.status import Status

ONE_FORM = (
    "step takes a closure, or loss_fn= together with batch= (or batches=, its micro-batches), "
    "or nothing"
)


class SharpnessAware(Status, Optimizer):
    """A sharpness-aware step around a base optimizer.

    One step: gradient g at w, perturbation ε from g, gradient g̃ at w+ε, back to exactly w, and the
    base optimizer descends along u, made of (g, g̃), at w. What varies is given as four small
    parts: `perturbation` (ε), `plan` (the evaluations of a step and what is made of them) and
    `loss_terms`. `SAM` and the other presets fill them in.

    Four ways in::

        loss = opt.step(closure)              # closure: zero_grad, forward, backward, return loss
        with opt.perturbed():                 # after your own backward()
            loss_fn(model(x), y).backward()
        opt.step()
        opt.first_step(); ...; opt.second_step()
        loss = opt.step(loss_fn=per_example_loss, batch=(x, y))

    With a gradient scaler: ``step(closure, scaler=scaler)``, or ``perturbed(scaler=scaler)``
    and then ``scaler.step(opt)``; ``scaler.update()`` comes last, as always.

    State: per-parameter state and all hyperparameters are shared with the base optimizer
    (``opt.state is opt.base_optimizer.state``), so a plain checkpoint of the base loads here and
    the other way round, and schedulers and parameter groups work as on any optimizer.

    Args:
        params: parameters or parameter groups, as for any ``torch.optim`` optimizer; a group may
            have its own ``"rho"``.
        base: a ``torch.optim`` class, built over `params` with `base_arguments`, or an instance
            that already holds exactly these parameters. LBFGS is refused.
        rho: radius ρ >= 0 of the perturbation. With ρ = 0 in every group the step is the base
            optimizer's own, with one pass.
        model: the network. With it, normalization layers are known (needed for compiled models
            and for selections by layer type or name).
        perturbation: what ε is; default ε = ρ·g/‖g‖, one norm over all parameters. "global" and
            "local" are this default with several devices: ε from the gradient of the whole batch,
            or on every device from its own share of the batch.
        plan: the program of a step; default [w, w+ε] with u = g̃.
        loss_terms: terms applied to the per-example losses of ``step(loss_fn=, batch=)``.
        bn_second: what the pass at w+ε does with running statistics: "frozen" (default) uses batch
            statistics and leaves the running ones alone, "update" updates them a second time,
            "eval" runs on the running ones.
        norm_classes: the user's own module classes whose buffers are running statistics.
        nonfinite: a gradient that is not finite skips the step. "skip" waits for the device once a
            step to know; "device" never waits, and needs a base that honours ``found_inf`` (one
            built with ``fused=True``).
        replay_rng: use the same random numbers (dropout) in both passes.
        start, end, every: perturb in steps start, start+every, ... before end (None: no end), and
            take plain steps otherwise.
        schedule: step → factor on ρ, a pure function (see `lowland.optim.schedules`).
        split_over: process group over which whole parameters are divided, each on one process
            only (the stages of a pipeline): norms sum over it. Sharded parameters (DTensor: FSDP2,
            tensor parallelism) know their groups by themselves.
        **base_arguments: passed on to `base` if it is a class.

    Raises:
        InputError: ρ is negative or not finite, a base cannot be used, or arguments contradict
            each other.

    Cost: two passes and the base step, one copy of the perturbed parameters, and about four
    reads or writes of the parameters.
    """

    _engine: Engine
    _passes: UserPasses

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            cls.__init__ = one_of_each(cls.__init__)  # type: ignore[method-assign]

    def __init__(
        self,
        params: Iterable[Any],
        base: type[Optimizer] | Optimizer | None = None,
        *,
        rho: float = 0.05,
        model: nn.Module | None = None,
        perturbation: Perturbation | str = "global",
        plan: Plan | None = None,
        loss_terms: Iterable[LossTerm] = (),
        bn_second: str = "frozen",
        norm_classes: tuple[type[nn.Module], ...] = (),
        nonfinite: str = "skip",
        replay_rng: bool = False,
        start: int = 0,
        end: int | None = None,
        every: int = 1,
        schedule: Callable[[int], float] | None = None,
        split_over: Any = None,
        **base_arguments: Any,
    ) -> None:
        if isinstance(perturbation, str):
            perturbation = Perturbation(across=perturbation)
        program: Plan = plan or TwoPass()
        statistics = RunningStatistics(model, bn_second, norm_classes)
        own = {"rho": rho, "start": start, "end": end, "every": every}
        own |= perturbation.defaults() | {name: getattr(program, name) for name in program.defaults}
        check_group(own)
        base_optimizer = make_base(params, base, base_arguments)
        check_names(own, base_optimizer)
        super().__init__(
            base_optimizer.param_groups,
            {**base_optimizer.defaults, **own, "sam_step": 0, "sam_skipped": 0},
        )
        self.state = base_optimizer.state
        base_optimizer.param_groups, base_optimizer.defaults = self.param_groups, self.defaults
        self._engine = Engine(
            base=base_optimizer,
            perturbation=perturbation,
            plan=program,
            loss_terms=tuple(loss_terms),
            model=model,
            statistics=statistics,
            on_device=skips_on_device(nonfinite, base_optimizer),
            replay_rng=replay_rng,
            schedule=schedule,
            split_over=split_over,
        )
        self._passes = UserPasses(self._engine)
        self._engine.check_settings()

    def step(
        self,
        closure: Closure | None = None,
        *,
        loss_fn: LossFn | None = None,
        batch: Any = None,
        batches: Sequence[Any] | None = None,
        backward: Backward | None = None,
        scaler: Any = None,
    ) -> Any:
        """One step; returns the loss at w (None where the user ran the passes).

        Args:
            closure: zero_grad, forward, backward, return the loss; called once per pass. With a
                scaler its backward is scaled, and the loss that it returns is not.
            loss_fn: called as ``loss_fn(*batch)`` (``**batch`` for a dictionary) with the batch or
                a part of it; returns one loss per example, shape (n,), or their mean.
            batch: tensors with the examples along the first dimension, nested as you like.
            batches: micro-batches instead of one batch. They are one batch together: 2k passes,
                weighted by examples, ε from the mean gradient (`MSAM`: an ε for each of them).
            backward: called with the mean loss instead of ``loss.backward()``; has to scale it if
                there is a scaler.
            scaler: the `torch.amp.GradScaler` in use; ``scaler.update()`` is left to the caller.

        Without arguments, also as ``scaler.step(opt)``: finishes a step whose perturbed pass has
        been run.

        Raises:
            RuntimeError: no gradients, no perturbed pass though the method needs one, or a closure
                that found gradients it did not make. The weights are w in every case.
        """
        engine, handoff = self._engine, Handoff.of(self)
        data = [batch] if batch is not None else batches
        if (batch is not None and batches is not None) or (loss_fn is None) != (data is None):
            raise InputError(ONE_FORM)
        if closure is not None and loss_fn is not None:
            raise InputError(ONE_FORM)
        if handoff is not None:
            return self._finish_scaled(handoff, alone=closure is None and loss_fn is None)
        scaling = engine.loss_scale.of(scaler, self)
        if loss_fn is not None:
            assert data is not None
            self._passes.abandon()
            evaluator = BatchEvaluator(
                loss_fn,
                data,
                split=batches is not None,
                backward=backward or scaled_backward(scaling),
                terms=engine.loss_terms,
                groups=self.param_groups,
                devices=engine.devices,
                radius=_radius_of_terms(engine),
            )
            return engine.run(evaluator, scaling)
        if closure is None:
            if scaling is not None:
                raise RuntimeError(STEP_BY_SCALER)
            return self._passes.finish()
        check_whole(engine)
        if self._passes.waiting and does_nothing(closure, self.param_groups):
            return self._passes.finish()
        self._passes.abandon()
        return engine.run(ClosureEvaluator(closure), scaling)

    def _finish_scaled(self, handoff: Handoff, *, alone: bool) -> None:
        """The step that ``scaler.step(opt)`` calls."""
        try:
            if not alone:
                raise RuntimeError(CLOSURE_BY_SCALER)
            self._passes.finish(handoff)
        except BaseException:
            Handoff.drop(self)  # a scaler clears up only behind a step that succeeds
            raise

    # The step hooks fire where the weights change: once, in the base optimizer's own step.
    step.hooked = True  # type: ignore[attr-defined]

    def perturbed(
        self,
        *,
        last: bool = True,
        examples: float = 1.0,
        divided: bool = False,
        scaler: Any = None,
        loss: Any = None,
    ) -> PerturbedPass:
        """A context in which the weights are w+ε; on leaving it, exactly w, exceptions included.

        One gap: a signal (Ctrl-C) on the very instruction that leaves the block. The next call of
        the optimizer then brings w back. ``step(closure)`` has no such gap.

        On entering, ``.grad`` must hold the gradient at w; it is taken and cleared. On leaving,
        ``.grad`` holds the gradient at w+ε, for clipping and for ``step()``.

        Args:
            last: False on all but the last of several micro-batches: g̃ goes to an accumulator,
                and after the last one ``.grad`` holds the mean over all of them. Each micro-batch
                has an ε of its own (m-SAM with m = the micro-batch).
            examples: weight of this micro-batch in that mean: its number of examples.
            divided: the losses of the micro-batches are divided by their number (or weighted)
                already: the gradients at w+ε are added up, as in ``.grad``; no `examples` then.
            scaler: the gradient scaler, if backward() is scaled. Entering unscales the gradient;
                finish with ``scaler.step(opt)``, before which ``scaler.unscale_(opt)`` may come to
                clip. Never unscale before this.
            loss: the loss at w, for ``opt.last``; ``record(loss)`` on what the context gives
                adds the one at w+ε.

        Raises:
            RuntimeError: there is no gradient, it is unscaled already, or this is a pass inside a
                pass. The weights are w.
        """
        if not examples > 0:
            raise InputError(f"examples is {examples}: give the number of examples, above 0")
        if divided and examples != 1.0:
            raise InputError("divided=True adds gradients up as they are: leave out examples=")
        scaling = self._engine.loss_scale.of(scaler, self)
        loss = loss.detach() if isinstance(loss, Tensor) else loss
        return PerturbedPass(
            self._passes, PassSettings(last, float(examples), divided, scaling, loss)
        )

    def first_step(self, zero_grad: bool = False, *, scaler: Any = None) -> None:
        """Go to w+ε along the gradient in ``.grad``, which is cleared (whatever `zero_grad`).

        With a scaler, finish by ``second_step(scaler=scaler)`` or ``scaler.step(opt)``.
        """
        scaling = self._engine.loss_scale.of(scaler, self)
        try:
            self._passes.enter(two_step=True, settings=PassSettings(scaling=scaling))
        except BaseException:
            self._passes.leave(failed=True)
            raise

    def second_step(self, zero_grad: bool = False, *, scaler: Any = None) -> None:
        """Come back to w and step along the gradient at w+ε that stands in ``.grad``.

        With a scaler this calls ``scaler.step``; ``scaler.update()`` is left to the caller.

        Raises:
            RuntimeError: there was no `first_step`.
        """
        if self._passes.open is None or not self._passes.open.inside:
            raise RuntimeError("second_step() without first_step()")
        self._passes.leave()
        if scaler is None:
            self.step()
        else:
            scaler.step(self)
        if zero_grad:
            self.zero_grad()

    def abandon(self) -> None:
        """Give up the step in progress: weights at w, gradients and accumulated g̃ dropped.

        For a window of micro-batches (``perturbed(last=False)``) that will not be finished, such as
        the ragged end of an epoch: ``zero_grad()`` does not drop what it has accumulated, because
        it may come before every micro-batch.
        """
        self._passes.abandon(quietly=True)

    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's state, ours beside it.

        Raises:
            RuntimeError: the weights are at w+ε: a checkpoint now would save the wrong ones.
        """
        inside = self._passes.open is not None and self._passes.open.inside
        if inside or self._engine.away:
            raise RuntimeError(
                "state_dict() while the weights are at w+ε: call second_step(), or leave "
                "perturbed() or the closure, first"
            )
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of this optimizer, or a plain one of its base.

        What a plain checkpoint does not have (ρ and the like) stays as it is. State of ours keeps
        the type it was saved in: float32 state of bfloat16 parameters survives.
        """
        self._passes.abandon()
        state_dict = dict(state_dict)
        for pre_hook in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = pre_hook(self, state_dict) or state_dict
        load_state(self, self._engine, state_dict)
        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in ``torch.optim``; a group may have its own ``"rho"``."""
        if self.param_groups and hasattr(self, "_engine"):
            plan, first = self._engine.plan, self.param_groups[0]
            for name in plan.defaults:  # they may have moved since
                param_group.setdefault(name, first[name])
            check_common([first, {**self.defaults, **param_group}], shared_names(plan))
            for counter in ("sam_step", "sam_skipped"):
                param_group[counter] = first[counter]
        check_group({**self.defaults, **param_group})
        super().add_param_group(param_group)

    def register_step_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Called once a step, just before the base optimizer steps at w; ``.grad`` holds u."""
        return self._engine.base.register_step_pre_hook(AsOptimizer(self, hook))

    def register_step_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Called once a step, just after the base optimizer has stepped."""
        return self._engine.base.register_step_post_hook(AsOptimizer(self, hook))

    def __getstate__(self) -> dict[str, Any]:
        """Everything a copy or a pickle needs, the base optimizer included.

        Raises:
            RuntimeError: the weights are at w+ε.
        """
        if self._passes.open is not None:
            raise RuntimeError("a step is under way: finish it before copying the optimizer")
        names = ("defaults", "state", "param_groups", "_engine", "_passes")
        return {name: self.__dict__[name] for name in names}


def _radius_of_terms(engine: Engine) -> float:
    """ρ as loss terms have it, see `Pass`."""
    first = engine.groups[0]
    radius: float = first["rho"] * engine.factor() if engine.acts() else 0.0
    return -radius if first.get("maximize") else radius
