"""Hugging Face ``Trainer``: every step equals the sharpness-aware loop written out by hand."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_cases import (
    RHO,
    TOLERANCE,
    Network,
    Recorder,
    SAMTrainer,
    agree,
    arguments,
    base_over,
    by_hand,
    mean_share,
    trainer,
    transformers,
    vectors,
)
from tiny_trainers import (
    Batch,
    farthest,
    language_model,
    sam_by_hand,
    same,
    sentences,
    token_loss,
    twin,
    weights,
    windows,
)
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lowland import ASAM, SAM, LookSAM
from lowland.integrations import at_perturbed_weights, sharpness_aware

# what the libraries say to each other
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
]


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("clip", [None, 0.5])
def test_every_step_equals_the_loop_by_hand(
    tmp_path: Path, accumulation: int, clip: float | None
) -> None:
    """Seven micro-batches per epoch: with 3 to a window, the last one is ragged. The schedule and
    the weight-decay groups are those of Trainer."""
    ours, seen = trainer(
        tmp_path, gradient_accumulation_steps=accumulation, max_grad_norm=clip or 0.0
    )
    ours.train()
    reference, _ = by_hand(tmp_path, accumulation, clip=clip)
    agree(seen.weights, reference)
    if clip is not None:
        assert max(seen.norms) <= clip * 1.0001


def test_clipping_acts(tmp_path: Path) -> None:
    """The limit of the test above is below the norms that occur."""
    ours, seen = trainer(tmp_path, gradient_accumulation_steps=3)
    ours.train()
    assert max(seen.norms) > 0.5


def test_plain_training_is_something_else(tmp_path: Path) -> None:
    """The comparison can fail: ρ = 0 is far from the loop by hand, and equals Trainer's own."""
    ours, seen = trainer(tmp_path, make=functools.partial(SAM, rho=0.0))
    ours.train()
    reference, _ = by_hand(tmp_path, 1)
    assert farthest(seen.weights[-1], reference[-1]) > 100 * TOLERANCE
    model, recorder = language_model(), Recorder()
    plain = transformers.Trainer(
        model=model, args=arguments(tmp_path), train_dataset=sentences(), callbacks=[recorder]
    )
    plain.train()
    assert same(seen.weights[-1], recorder.weights[-1])


def test_micro_batches_with_an_epsilon_each(tmp_path: Path) -> None:
    ours, seen = trainer(tmp_path, perturb="micro-batch", gradient_accumulation_steps=3)
    ours.train()
    reference, _ = by_hand(tmp_path, 3, per_micro_batch=True)
    agree(seen.weights, reference)


def test_label_smoothing(tmp_path: Path) -> None:
    ours, seen = trainer(tmp_path, label_smoothing_factor=0.2, gradient_accumulation_steps=3)
    ours.train()

    def smoothed(model: nn.Module, examples: Sequence[Batch]) -> Tensor:
        return token_loss(model, examples, smoothing=0.2)

    agree(seen.weights, by_hand(tmp_path, 3, loss_of=smoothed)[0])


def test_compute_loss_func_gets_the_number_of_items(tmp_path: Path) -> None:
    given: list[float] = []

    def loss_func(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        given.append(float(num_items_in_batch))
        logits = outputs.logits[:, :-1].flatten(0, 1)
        target = labels[:, 1:].flatten()
        return (
            cross_entropy(logits, target, ignore_index=-100, reduction="sum") / num_items_in_batch
        )

    ours, seen = trainer(
        tmp_path,
        gradient_accumulation_steps=3,
        trainer_arguments={"compute_loss_func": loss_func},
    )
    ours.train()
    agree(seen.weights, by_hand(tmp_path, 3)[0])
    assert len(given) == 2 * 2 * 7
    assert given[:3] == given[3:6], "both passes of a window divide by the same number"
    assert given[12] == given[13] != given[0], "so does the window of one micro-batch"


@pytest.mark.parametrize("perturb", ["window", "micro-batch"])
def test_logs_have_the_loss_at_w_and_what_the_step_measured(tmp_path: Path, perturb: str) -> None:
    ours, _ = trainer(tmp_path, gradient_accumulation_steps=3, perturb=perturb)
    ours.train()
    _, losses = by_hand(tmp_path, 3, per_micro_batch=perturb == "micro-batch")
    logged = [entry for entry in ours.state.log_history if "loss" in entry]
    assert len(logged) == len(losses)
    for entry, (at_w, at_perturbed) in zip(logged, losses, strict=True):
        assert entry["loss"] == pytest.approx(at_w, abs=1e-5)
        assert entry["sam_perturbed_loss"] == pytest.approx(at_perturbed, abs=1e-5)
        assert entry["sam_sharpness"] == pytest.approx(at_perturbed - at_w, abs=2e-5)
        assert entry["sam_perturbation_norm"] == pytest.approx(RHO, rel=1e-5)
        assert entry["sam_grad_norm"] != entry["grad_norm"]
        assert entry["sam_skipped_total"] == 0


@pytest.mark.parametrize("perturb", ["window", "micro-batch"])
def test_a_model_that_returns_means(tmp_path: Path, perturb: str) -> None:
    """Means are divided by the window's length, which differs in the ragged window; BatchNorm's
    running statistics see the first pass alone."""
    ours, seen = trainer(
        tmp_path, Network(), vectors(), perturb=perturb, gradient_accumulation_steps=3
    )
    ours.train()
    model = Network()
    steps = windows(vectors(), 2, 3) * 2
    base, scheduler = base_over(model, tmp_path, len(steps))
    reference = []
    for window in steps:
        parts = [functools.partial(mean_share, model, micro, len(window)) for micro in window]

        def total(parts: Any = parts) -> Tensor:
            return torch.stack([part() for part in parts]).sum()

        frozen = [b.clone() for b in model.buffers()]
        sam_by_hand(model, base, parts if perturb == "micro-batch" else [total], RHO)
        with torch.no_grad():
            for buffer, value in zip(model.buffers(), frozen, strict=True):
                buffer.copy_(value)
        scheduler.step()
        reference.append(weights(model))
    agree(seen.weights, reference)
    assert int(ours.model.body[1].num_batches_tracked) == 14


@pytest.mark.parametrize("perturb", ["window", "micro-batch"])
def test_resumed_training_equals_uninterrupted_bit_for_bit(tmp_path: Path, perturb: str) -> None:
    """AdamW, dropout, a shuffled order, a method with state of its own, a checkpoint inside an
    epoch."""
    settings: dict[str, Any] = {
        "optim": "adamw_torch", "optim_args": None, "learning_rate": 1e-2, "max_grad_norm": 1.0,
        "gradient_accumulation_steps": 2, "train_sampling_strategy": "random",
        "save_strategy": "steps", "save_steps": 3, "perturb": perturb,
        "make": functools.partial(LookSAM, rho=RHO, k=2) if perturb == "window" else ASAM,
    }  # fmt: skip
    whole, seen = trainer(tmp_path, language_model(dropout=0.2), **settings)
    whole.train()
    again, resumed = trainer(tmp_path / "again", language_model(7, dropout=0.2), **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert len(seen.weights) == 8
    assert len(resumed.weights) == 5
    assert same(resumed.weights[-1], seen.weights[-1])
    assert resumed.rates == seen.rates[3:]


def test_max_steps_and_a_second_call_of_train(tmp_path: Path) -> None:
    ours, seen = trainer(tmp_path, max_steps=3, gradient_accumulation_steps=3)
    ours.train()
    assert len(seen.weights) == 3
    first = sharpness_aware(ours.optimizer)
    ours.train()
    assert sharpness_aware(ours.optimizer) is first, "wrapped once, not twice"
    assert len(seen.weights) == 6


def test_an_optimizer_of_the_users(tmp_path: Path) -> None:
    """A plain one is wrapped; a sharpness-aware one is taken as it is."""
    finals = []
    for build in (
        lambda m: torch.optim.SGD(m.parameters(), lr=0.05),
        lambda m: SAM(m.parameters(), torch.optim.SGD, lr=0.05, rho=RHO, model=m),
    ):
        model = language_model()
        ours, seen = trainer(
            tmp_path, model, trainer_arguments={"optimizers": (build(model), None)}
        )
        ours.train()
        finals.append(seen.weights[-1])
    assert same(*finals)


def test_only_adapters_are_perturbed_and_stepped(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["c_attn"], lora_dropout=0.0, fan_in_fan_out=True)
    torch.manual_seed(0)
    model = peft.get_peft_model(language_model(), config)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    reference = twin(model)
    away: list[bool] = []

    class Watching(SAMTrainer):
        def compute_loss(self, model: Any, *args: Any, **kwargs: Any) -> Any:
            if at_perturbed_weights(self.optimizer):
                moved = {n for n, p in model.named_parameters() if not torch.equal(p, now[n])}
                away.append(bool(moved) and all("lora" in name for name in moved))
            else:
                now.update({n: p.detach().clone() for n, p in model.named_parameters()})
            return super().compute_loss(model, *args, **kwargs)

    now: dict[str, Tensor] = {}
    ours, _ = trainer(tmp_path, model, kind=Watching, learning_rate=0.5)
    ours.train()
    assert len(away) == 14
    assert all(away)
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) == ("lora" not in name), name
    held = {p for group in sharpness_aware(ours.optimizer).param_groups for p in group["params"]}
    assert held == {p for p in model.parameters() if p.requires_grad}
    base = torch.optim.SGD([p for p in reference.parameters() if p.requires_grad], lr=0.5)
    base.param_groups[0].update(momentum=0.9, weight_decay=0.01)
    scheduler = transformers.get_scheduler("linear", base, 0, 14)
    for window in windows(sentences(), 2, 1) * 2:
        sam_by_hand(reference, base, [functools.partial(token_loss, reference, window[0])], RHO)
        scheduler.step()
    assert farthest(weights(model), weights(reference)) < TOLERANCE


def test_steps_without_a_second_pass_make_none(tmp_path: Path) -> None:
    passes: list[bool] = []

    class Counting(SAMTrainer):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            passes.append(at_perturbed_weights(self.optimizer))
            return super().compute_loss(*args, **kwargs)

    ours, _ = trainer(
        tmp_path,
        kind=Counting,
        make=functools.partial(SAM, rho=RHO, every=2),
        num_train_epochs=1,
        gradient_accumulation_steps=3,
    )
    ours.train()
    assert passes == [False] * 3 + [True] * 3 + [False] * 3 + [False, True]
