"""`SharpnessAware`: any member of the family over any ``torch.optim`` optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lowland.core.errors import InputError
from lowland.optim.base import check_names, make_base, skips_on_device
from lowland.optim.checks import check_common, check_group
from lowland.optim.engine import OWN, Engine
from lowland.optim.evaluators import Backward, BatchEvaluator, Closure, ClosureEvaluator, LossFn
from lowland.optim.passes import SPLITS, PerturbedPass, UserPasses
from lowland.optim.perturbation import Perturbation
from lowland.optim.plan import LossTerm, Plan, TwoPass
from lowland.optim.statistics import RunningStatistics
from lowland.optim.step import StepRecord


class SharpnessAware(Optimizer):
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
        perturbation: what ε is; default ε = ρ·g/‖g‖, one norm over all parameters.
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
        **base_arguments: passed on to `base` if it is a class.

    Raises:
        InputError: ρ is negative or not finite, a base cannot be used, or arguments contradict
            each other.

    Cost: two passes and the base step, one copy of the perturbed parameters, and about four
    reads or writes of the parameters.
    """

    _engine: Engine
    _passes: UserPasses

    def __init__(
        self,
        params: Iterable[Any],
        base: type[Optimizer] | Optimizer | None = None,
        *,
        rho: float = 0.05,
        model: nn.Module | None = None,
        perturbation: Perturbation | None = None,
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
        **base_arguments: Any,
    ) -> None:
        perturbation = perturbation or Perturbation()
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
        )
        self._passes = UserPasses(self._engine)
        self._engine.check_settings()

    @property
    def base_optimizer(self) -> Optimizer:
        """The optimizer that takes the step at w; it shares groups and state with this one."""
        return self._engine.base

    @property
    def last(self) -> StepRecord | None:
        """Losses, norms, sharpness and skips of the last step, as lazy tensors; None before one."""
        return self._engine.last

    @property
    def needs_perturbation(self) -> bool:
        """Whether the coming step has a pass at w+ε (context users may leave it out if not)."""
        return self._engine.perturbs()

    @property
    def needs_batch(self) -> bool:
        """Whether the method evaluates parts of the batch: ``step(loss_fn=, batch=)`` only."""
        return self._engine.plan.splits

    def step(
        self,
        closure: Closure | None = None,
        *,
        loss_fn: LossFn | None = None,
        batch: Any = None,
        backward: Backward | None = None,
    ) -> Any:
        """One step; returns the loss at w (None where the user ran the passes).

        Args:
            closure: zero_grad, forward, backward, return the loss; called once per pass.
            loss_fn: called as ``loss_fn(*batch)`` (``**batch`` for a dictionary) with the batch or
                a part of it; returns one loss per example, shape (n,), or their mean.
            batch: tensors with the examples along the first dimension, nested as you like.
            backward: called with the mean loss instead of ``loss.backward()``.

        Without arguments: finishes a step whose perturbed pass has been run.

        Raises:
            RuntimeError: no gradients, no perturbed pass though the method needs one, or a closure
                that found gradients it did not make. The weights are w in every case.
        """
        engine = self._engine
        if (loss_fn is None) != (batch is None) or (closure is not None and loss_fn is not None):
            raise InputError("step takes a closure, or loss_fn= and batch= together, or nothing")
        if loss_fn is not None:
            self._passes.abandon()
            terms = engine.loss_terms
            return engine.run(BatchEvaluator(loss_fn, batch, backward, terms, self.param_groups))
        if engine.loss_terms:
            raise RuntimeError("loss terms see the loss only in step(loss_fn=..., batch=...)")
        if closure is None:
            return self._passes.finish()
        if engine.plan.splits:
            raise RuntimeError(SPLITS)
        self._passes.abandon()
        return engine.run(ClosureEvaluator(closure))

    # The step hooks fire where the weights change: once, in the base optimizer's own step.
    step.hooked = True  # type: ignore[attr-defined]

    def perturbed(self, *, last: bool = True, examples: float = 1.0) -> PerturbedPass:
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
        """
        if not examples > 0:
            raise InputError(f"examples is {examples}: give the number of examples, above 0")
        return PerturbedPass(self._passes, last, examples)

    def first_step(self, zero_grad: bool = False) -> None:
        """Go to w+ε along the gradient in ``.grad``, which is cleared (whatever `zero_grad`)."""
        try:
            self._passes.enter(two_step=True)
        except BaseException:
            self._passes.leave(failed=True)
            raise

    def second_step(self, zero_grad: bool = False) -> None:
        """Come back to w and step along the gradient at w+ε that stands in ``.grad``.

        Raises:
            RuntimeError: there was no `first_step`.
        """
        if self._passes.open is None or not self._passes.open.inside:
            raise RuntimeError("second_step() without first_step()")
        self._passes.leave()
        self.step()
        if zero_grad:
            self.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's state, ours beside it.

        Raises:
            RuntimeError: the weights are at w+ε: a checkpoint now would save the wrong ones.
        """
        if self._passes.open is not None and self._passes.open.inside:
            raise RuntimeError(
                "state_dict() while the weights are at w+ε: call second_step(), or leave "
                "perturbed(), first"
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
        own, plain = _split_state(state_dict["state"])
        kept = [{k: v for k, v in g.items() if k != "params"} for g in self.param_groups]
        saved = state_dict["param_groups"]
        filled = [{**old, **new} for old, new in zip(kept, saved, strict=False)]
        groups = filled + list(saved[len(filled) :])
        for group in filled:
            check_group(group)
        self._adopt(plain, groups, own)
        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)

    def _adopt(self, plain: Any, groups: list[dict[str, Any]], own: dict[Any, Any]) -> None:
        base = self._engine.base
        base.load_state_dict({"state": plain, "param_groups": groups})
        # torch gave the base new containers; ours are the ones that everybody already holds.
        loaded_state, loaded_groups = base.state, base.param_groups
        base.state, base.param_groups = self.state, self.param_groups
        self.state.clear()
        self.state.update(loaded_state)
        self.param_groups[:] = loaded_groups
        ids = [i for group in groups for i in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        for i, p in zip(ids, params, strict=True):
            for key, value in own.get(i, {}).items():
                moved = value.to(p.device, copy=True) if isinstance(value, Tensor) else value
                self.state[p][key] = moved
                self._engine.owns_state = True

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in ``torch.optim``; a group may have its own ``"rho"``."""
        check_group({**self.defaults, **param_group})
        if self.param_groups and hasattr(self, "_engine"):
            names = ("start", "end", "every", *self._engine.plan.defaults)
            check_common([self.param_groups[0], {**self.defaults, **param_group}], names)
            for counter in ("sam_step", "sam_skipped"):
                param_group[counter] = self.param_groups[0][counter]
        super().add_param_group(param_group)

    def register_step_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Called once a step, just before the base optimizer steps at w; ``.grad`` holds u."""
        return self._engine.base.register_step_pre_hook(_As(self, hook))

    def register_step_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Called once a step, just after the base optimizer has stepped."""
        return self._engine.base.register_step_post_hook(_As(self, hook))

    def __getstate__(self) -> dict[str, Any]:
        """Everything a copy or a pickle needs, the base optimizer included.

        Raises:
            RuntimeError: the weights are at w+ε.
        """
        if self._passes.open is not None:
            raise RuntimeError("a step is under way: finish it before copying the optimizer")
        names = ("defaults", "state", "param_groups", "_engine", "_passes")
        return {name: self.__dict__[name] for name in names}


class _As:
    """A step hook of the base optimizer, called with the sharpness-aware one."""

    def __init__(self, optimizer: SharpnessAware, hook: Callable[..., Any]) -> None:
        self._optimizer, self._hook = optimizer, hook

    def __call__(self, base: Optimizer, args: Any, kwargs: Any) -> Any:
        return self._hook(self._optimizer, args, kwargs)


def _split_state(state: dict[Any, Any]) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """(ours, the base's); parameters for which the base has nothing are left out of its share."""
    own: dict[Any, Any] = {}
    plain: dict[Any, Any] = {}
    for index, slot in state.items():
        if not isinstance(slot, dict):
            plain[index] = slot
            continue
        ours = {k: v for k, v in slot.items() if str(k).startswith(OWN)}
        rest = {k: v for k, v in slot.items() if k not in ours}
        if ours:
            own[index] = ours
        if rest or not ours:
            plain[index] = rest
    return own, plain
