"""A Hugging Face `Trainer` on tiny data, and the same steps written out by hand."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_trainers import (
    Batch,
    farthest,
    language_model,
    sam_by_hand,
    sentences,
    token_loss,
    weights,
    windows,
)
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lowland import SAM
from lowland.integrations.transformers import SharpnessAwareTrainerMixin

transformers = pytest.importorskip("transformers")

RHO = 0.1
TOLERANCE = 2e-6
"""What the order of sums in float32 makes of a few steps on weights of about 1."""


class Recorder(transformers.TrainerCallback):  # type: ignore[misc]
    """The weights after every step, and the gradient that the step was given."""

    def __init__(self) -> None:
        self.weights: list[list[Tensor]] = []
        self.norms: list[float] = []
        self.rates: list[float] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        grads = [p.grad for p in kwargs["model"].parameters() if p.grad is not None]
        self.norms.append(float(torch.nn.utils.get_total_norm(grads)))

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.weights.append(weights(kwargs["model"]))
        self.rates.append(kwargs["optimizer"].param_groups[0]["lr"])


class SAMTrainer(SharpnessAwareTrainerMixin, transformers.Trainer):  # type: ignore[misc]
    pass


def arguments(folder: Path, **changes: Any) -> Any:
    settings: dict[str, Any] = {
        "output_dir": str(folder), "per_device_train_batch_size": 2, "num_train_epochs": 2,
        "optim": "sgd", "optim_args": "momentum=0.9", "learning_rate": 0.1, "weight_decay": 0.01,
        "lr_scheduler_type": "linear", "max_grad_norm": 0.0, "logging_steps": 1,
        "save_strategy": "no", "report_to": "none", "use_cpu": True, "disable_tqdm": True,
        "train_sampling_strategy": "sequential", "seed": 0,
    }  # fmt: skip
    return transformers.TrainingArguments(**{**settings, **changes})


def trainer(
    folder: Path,
    model: nn.Module | None = None,
    data: Any = None,
    kind: type[Any] = SAMTrainer,
    make: Callable[..., Any] | None = None,
    perturb: str = "window",
    trainer_arguments: dict[str, Any] | None = None,
    **changes: Any,
) -> tuple[Any, Recorder]:
    recorder = Recorder()
    made = kind(
        model=language_model() if model is None else model,
        args=arguments(folder, **changes),
        train_dataset=sentences() if data is None else data,
        callbacks=[recorder],
        sharpness_aware=make or functools.partial(SAM, rho=RHO),
        perturb=perturb,
        **(trainer_arguments or {}),
    )
    made.remove_callback(transformers.PrinterCallback)
    return made, recorder


def base_over(model: nn.Module, folder: Path, steps: int) -> tuple[Any, Any]:
    """The optimizer and schedule that `Trainer` would make, weight decay by its groups."""
    plain = transformers.Trainer(model=model, args=arguments(folder))
    base = plain.create_optimizer()
    return base, transformers.get_scheduler("linear", base, 0, steps)


def by_hand(
    folder: Path,
    accumulation: int,
    loss_of: Callable[[nn.Module, Sequence[Batch]], Tensor] = token_loss,
    clip: float | None = None,
    per_micro_batch: bool = False,
) -> tuple[list[list[Tensor]], list[tuple[float, float]]]:
    """Weights after every step, and the losses at w and w+ε, of two epochs."""
    model = language_model()
    steps = windows(sentences(), 2, accumulation) * 2
    base, scheduler = base_over(model, folder, len(steps))
    trail, losses = [], []
    for window in steps:
        everything = [example for micro in window for example in micro]
        if per_micro_batch:
            tokens = counted(everything)
            parts = [
                functools.partial(weighted, model, micro, counted(micro) / tokens, loss_of)
                for micro in window
            ]
        else:
            parts = [functools.partial(loss_of, model, everything)]
        losses.append(sam_by_hand(model, base, parts, RHO, clip))
        scheduler.step()
        trail.append(weights(model))
    return trail, losses


def counted(examples: Sequence[Batch]) -> int:
    return sum(int((example["labels"][1:] != -100).sum()) for example in examples)


def weighted(
    model: nn.Module,
    examples: Sequence[Batch],
    share: float,
    loss_of: Callable[..., Tensor] = token_loss,
) -> Tensor:
    return loss_of(model, examples) * share


def agree(trail: list[list[Tensor]], reference: list[list[Tensor]]) -> None:
    assert len(trail) == len(reference)
    for step, (ours, theirs) in enumerate(zip(trail, reference, strict=True)):
        assert farthest(ours, theirs) < TOLERANCE, f"step {step}"
    assert farthest(reference[0], reference[-1]) > 1e-2, "the weights have moved"


class Network(nn.Module):
    """A classifier with BatchNorm that returns a mean loss of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.body = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 3))

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.body(x)
        return {"loss": cross_entropy(logits, labels), "logits": logits}


def vectors() -> list[Batch]:
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(14, 5, generator=generator)
    y = torch.randint(0, 3, (14,), generator=generator)
    return [{"x": a, "labels": b} for a, b in zip(x, y, strict=True)]


def mean_share(model: nn.Module, micro: Sequence[Batch], k: int) -> Tensor:
    x, y = (torch.stack([example[key] for example in micro]) for key in ("x", "labels"))
    loss: Tensor = model(x, y)["loss"] / k
    return loss
