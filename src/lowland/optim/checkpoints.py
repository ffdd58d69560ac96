"""Loading checkpoints: of this optimizer, or plain ones of its base."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from lowland.optim.checks import check_group
from lowland.optim.descent import OWN
from lowland.optim.engine import Engine
from lowland.optim.gradient import collect
from lowland.optim.plan import Evaluate, Evaluation


def load_state(optimizer: Optimizer, engine: Engine, state_dict: dict[str, Any]) -> None:
    """Put `state_dict` into an optimizer and the base below it, which share groups and state.

    Hyperparameters that the checkpoint does not have stay as they are. The base loads its share
    by its own rules, which cast; ours keeps the type that it was saved in.

    Raises:
        InputError: a hyperparameter in it makes no sense.
    """
    own, plain = _split_state(state_dict["state"])
    kept = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    saved = state_dict["param_groups"]
    filled = [{**old, **new} for old, new in zip(kept, saved, strict=False)]
    groups = filled + list(saved[len(filled) :])
    for group in filled:
        check_group(group)
    base = engine.base
    base.load_state_dict({"state": plain, "param_groups": groups})
    # torch gave the base new containers; ours are the ones that everybody already holds.
    loaded_state, loaded_groups = base.state, base.param_groups
    base.state, base.param_groups = optimizer.state, optimizer.param_groups
    optimizer.state.clear()
    optimizer.state.update(loaded_state)
    optimizer.param_groups[:] = loaded_groups
    ids = [i for group in groups for i in group["params"]]
    params = [p for group in optimizer.param_groups for p in group["params"]]
    engine.has_slots = False
    if getattr(base, "keeps_types", False):
        for i, p in zip(ids, params, strict=True):
            optimizer.state[p].update(_moved(plain.get(i, {}), p))
    if groups and not groups[0].get("sam_step"):
        return  # no step had been taken: what is ours are slots that nothing has filled
    for i, p in zip(ids, params, strict=True):
        optimizer.state[p].update(_moved(own.get(i, {}), p))
        engine.owns_state = engine.owns_state or i in own


def _moved(slot: dict[str, Any], param: Tensor) -> dict[str, Any]:
    """Copies on the device of the parameter, in the types that they were saved in."""
    return {
        key: value.to(param.device, copy=True) if isinstance(value, Tensor) else value
        for key, value in slot.items()
    }


def make_slots(engine: Engine) -> None:
    """Give state that is ours its place, without values, as the base has just done with its own.

    Distributed checkpoints fill an optimizer that has taken no step: they take a step at learning
    rate 0 along zero gradients, and load what they then find a place for. The slots hold what a
    step of two passes leaves after such gradients. The next step drops what was not loaded.
    """
    slots = getattr(engine.plan, "slots", None)
    if slots is None and not engine.keeps_gradient:
        return
    step = engine.begin()
    step.count = step.hyper["start"]
    if slots is None:
        gradient = collect(engine.groups)
        program = engine.plan(step)
        request = next(program)
        while isinstance(request, Evaluate):
            request = program.send(Evaluation(gradient))
        program.close()
    else:
        slots(step)
    for write in step.new_state():
        write.into(engine.state)
    engine.has_slots = True


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
