"""Hugging Face ``Trainer``: scalers, overflow, errors, bad input, activation checkpointing."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_cases import (
    RHO,
    Network,
    SAMTrainer,
    agree,
    base_over,
    by_hand,
    mean_share,
    trainer,
    transformers,
    vectors,
)
from tiny_trainers import (
    farthest,
    language_model,
    sam_by_hand,
    same,
    sentences,
    weights,
    windows,
)
from torch import Tensor

from lowland import MSAM, SAM, InputError
from lowland.integrations import at_perturbed_weights, sharpness_aware
from lowland.integrations.transformers import SharpnessAwareTrainerMixin

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def test_a_skipped_step_leaves_weights_and_schedule(tmp_path: Path) -> None:
    class Overflow(SAMTrainer):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(model, inputs, *args, **kwargs)
            return loss * float("nan") if self.state.global_step == 1 else loss

    ours, seen = trainer(
        tmp_path, kind=Overflow, num_train_epochs=1, max_grad_norm=1.0, logging_nan_inf_filter=False
    )
    with pytest.warns(RuntimeWarning, match="skipped"):
        ours.train()
    assert same(seen.weights[0], seen.weights[1])
    assert farthest(seen.weights[1], seen.weights[2]) > 0
    assert seen.rates[1] == seen.rates[2], "the schedule waits, as it does for a scaler's skip"
    assert seen.rates[0] != seen.rates[1]
    assert ours.state.log_history[-2]["sam_skipped_total"] == 1


def test_an_error_in_the_second_pass_leaves_the_weights(tmp_path: Path) -> None:
    class Failing(SAMTrainer):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if at_perturbed_weights(self.optimizer) and self.state.global_step == 1:
                raise MemoryError("no room")
            return super().compute_loss(model, inputs, *args, **kwargs)

    ours, seen = trainer(tmp_path, kind=Failing, gradient_accumulation_steps=3)
    with pytest.raises(MemoryError):
        ours.train()
    assert same(weights(ours.model), seen.weights[0])
    assert ours.accelerator.sync_gradients
    assert not ours._window.held


def _same_losses(losses: Tensor, batch: Any, params: Any) -> Tensor:
    return losses


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="perturb 'windw': did you mean 'window'"):
        trainer(tmp_path, perturb="windw")
    ours, _ = trainer(tmp_path, make=functools.partial(MSAM, rho=RHO, m=1))
    with pytest.raises(InputError, match="perturb='micro-batch'"):
        ours.train()
    ours, _ = trainer(tmp_path, make=functools.partial(SAM, rho=RHO, replay_rng=True))
    with pytest.raises(InputError, match="leave it out"):
        ours.train()
    ours, _ = trainer(tmp_path, make=functools.partial(SAM, rho=RHO, loss_terms=[_same_losses]))
    with pytest.raises(InputError, match="examples of a batch"):
        ours.train()
    ours.is_deepspeed_enabled = True
    with pytest.raises(InputError, match="DeepSpeed"):
        ours.create_optimizer()
    with pytest.raises(InputError, match="holds no sharpness-aware optimizer"):
        sharpness_aware(torch.optim.SGD(language_model().parameters(), lr=0.1))


def scaled(made: Any, init_scale: float) -> Any:
    """What fp16 adds to Accelerate, without half precision: a scaler in `backward` and `step`, and
    unscaling before clipping."""
    scaler = torch.amp.GradScaler("cpu", init_scale=init_scale, growth_interval=4)
    made.accelerator.scaler = scaler
    unscale = functools.partial(_unscale, made, scaler)
    made.accelerator.unscale_gradients = unscale
    return scaler


def _unscale(made: Any, scaler: Any) -> None:
    scaler.unscale_(sharpness_aware(made.optimizer))


@pytest.mark.parametrize("clip", [0.0, 0.5])
@pytest.mark.parametrize("perturb", ["window", "micro-batch"])
def test_a_gradient_scaler_changes_nothing(tmp_path: Path, clip: float, perturb: str) -> None:
    """A scale that is a power of two is exact in every sum, so it is the same bit for bit."""
    finals = []
    for with_scaler in (False, True):
        made, seen = trainer(
            tmp_path, gradient_accumulation_steps=3, max_grad_norm=clip, perturb=perturb
        )
        scaler = scaled(made, 1024.0) if with_scaler else None
        made.train()
        finals.append(seen.weights)
    assert all(same(a, b) for a, b in zip(*finals, strict=True))
    assert scaler is not None
    assert scaler.get_scale() == 2048.0


def test_overflow_skips_the_step_and_backs_off(tmp_path: Path) -> None:
    made, seen = trainer(tmp_path, num_train_epochs=1, max_grad_norm=1.0)
    scaler = scaled(made, 2.0**127)
    start = weights(made.model)
    with pytest.warns(RuntimeWarning, match="skipped"):
        made.train()
    taken = [i for i, now in enumerate(seen.weights) if not same(now, start)]
    assert taken[0] > 0
    assert taken[0] < 7
    assert scaler.get_scale() < 2.0**127
    assert len(set(seen.rates[: taken[0] + 1])) == 1, "the schedule waits for the first step"
    assert sharpness_aware(made.optimizer).last.skipped_total == taken[0]


def test_activation_checkpointing(tmp_path: Path) -> None:
    fields = transformers.TrainingArguments.__dataclass_fields__
    name = next(n for n in ("activation_checkpointing", "gradient_checkpointing") if n in fields)
    ours, seen = trainer(tmp_path, gradient_accumulation_steps=3, **{name: True})
    ours.train()
    agree(seen.weights, by_hand(tmp_path, 3)[0])


def test_a_window_that_an_error_cut_short_is_forgotten(tmp_path: Path) -> None:
    failed: list[int] = []

    class Failing(SAMTrainer):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            failed.append(len(failed))
            if len(failed) == 2:
                raise MemoryError("no room")
            return super().compute_loss(*args, **kwargs)

    ours, seen = trainer(tmp_path, kind=Failing, gradient_accumulation_steps=3)
    with pytest.raises(MemoryError):
        ours.train()
    ours.train()
    clean, reference = trainer(tmp_path, gradient_accumulation_steps=3)
    clean.train()
    assert same(seen.weights[-1], reference.weights[-1])


def test_an_inherited_step_may_change_its_inputs(tmp_path: Path) -> None:
    """The second pass gets them as they were."""

    class Renaming(transformers.Trainer):  # type: ignore[misc]
        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            inputs["labels"] = inputs.pop("targets")
            return super().training_step(model, inputs, *args, **kwargs)

    class Ours(SharpnessAwareTrainerMixin, Renaming):
        pass

    data = [{"input_ids": d["input_ids"], "targets": d["labels"]} for d in sentences()]
    ours, seen = trainer(tmp_path, data=data, kind=Ours, remove_unused_columns=False)
    ours.train()
    assert len(seen.weights) == 14


class Stream(torch.utils.data.IterableDataset[Any]):
    """Examples without a length."""

    def __iter__(self) -> Iterator[Any]:
        return iter(vectors())


def test_a_window_across_two_epochs_of_a_stream(tmp_path: Path) -> None:
    """A stream ends after seven micro-batches, which Trainer cannot know: the seventh, a window of
    one, waits for the first window of the next epoch. Its share stays that of a window of one."""
    ours, seen = trainer(tmp_path, Network(), Stream(), gradient_accumulation_steps=3, max_steps=4)
    ours.train()
    model = Network()
    base, scheduler = base_over(model, tmp_path, 4)
    micro = [part for (part,) in windows(vectors(), 2, 1)]
    steps = [
        [(0, 3), (1, 3), (2, 3)], [(3, 3), (4, 3), (5, 3)],
        [(6, 1), (0, 3), (1, 3), (2, 3)], [(3, 3), (4, 3), (5, 3)],
    ]  # fmt: skip
    reference = []
    for step in steps:

        def loss(step: Any = step) -> Tensor:
            return torch.stack([mean_share(model, micro[i], k) for i, k in step]).sum()

        frozen = [b.clone() for b in model.buffers()]
        sam_by_hand(model, base, [loss], RHO)
        with torch.no_grad():
            for buffer, value in zip(model.buffers(), frozen, strict=True):
                buffer.copy_(value)
        scheduler.step()
        reference.append(weights(model))
    agree(seen.weights, reference)
