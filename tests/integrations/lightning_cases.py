"""A Lightning module, and the same steps in a plain loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_trainers import same, weights
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lowland import SAM

pl = pytest.importorskip("pytorch_lightning")

from lowland.integrations.lightning import SharpnessAwareMixedPrecision  # noqa: E402

QUIET = [
    pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*treespec:DeprecationWarning"),
]
"""Marks for what Lightning says to everybody."""

SETTINGS: dict[str, Any] = {"rho": 0.3, "lr": 0.1, "momentum": 0.9}
STEPS = 4


def network(norm: bool = False) -> nn.Module:
    torch.manual_seed(3)
    middle = nn.BatchNorm1d(7) if norm else nn.Tanh()
    return nn.Sequential(nn.Linear(5, 7), middle, nn.Linear(7, 3))


def batches(n: int = STEPS) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(8)
    return [
        (torch.randn(6, 5, generator=generator), torch.randint(0, 3, (6,), generator=generator))
        for _ in range(n)
    ]


class Module(pl.LightningModule):  # type: ignore[misc]
    """What a user writes: nothing in it knows of two passes."""

    def __init__(self, make: Any = SAM, norm: bool = False, decay: bool = False) -> None:
        super().__init__()
        self.net, self.make, self.decay = network(norm), make, decay
        self.trail: list[list[Tensor]] = []
        self.norms: list[float] = []

    def loss(self, batch: Any) -> Tensor:
        return cross_entropy(self.net(batch[0]), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(batch)

    def configure_optimizers(self) -> Any:
        opt = self.make(self.net.parameters(), torch.optim.SGD, model=self.net, **SETTINGS)
        if not self.decay:
            return opt
        return [opt], [
            {"scheduler": torch.optim.lr_scheduler.StepLR(opt, 1, 0.5), "interval": "step"}
        ]

    def on_train_batch_end(self, *args: Any) -> None:
        self.trail.append(weights(self.net))

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(batches(), batch_size=None)


def fit(module: Any, folder: Path, path: Path | None = None, **settings: Any) -> Any:
    quiet: dict[str, Any] = {
        "accelerator": "cpu", "devices": 1, "max_epochs": 1, "logger": False,
        "enable_checkpointing": False, "enable_progress_bar": False, "log_every_n_steps": 1,
        "enable_model_summary": False, "default_root_dir": folder,
    }  # fmt: skip
    trainer = pl.Trainer(**{**quiet, **settings})
    trainer.fit(module, ckpt_path=path)
    return trainer


def by_optimizer(
    make: Any = SAM, norm: bool = False, dtype: torch.dtype | None = None, clip: Any = None
) -> list[list[Tensor]]:
    """The plain loop; `clip` acts on the gradient at w+ε."""
    model = network(norm)
    opt = make(model.parameters(), torch.optim.SGD, model=model, **SETTINGS)
    trail = []
    for x, y in batches():

        def backward(x: Tensor = x, y: Tensor = y) -> None:
            with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
                loss = cross_entropy(model(x), y)
            loss.backward()

        opt.zero_grad()
        backward()
        with opt.perturbed():
            backward()
        if clip is not None:
            clip(model.parameters())
        opt.step()
        trail.append(weights(model))
    return trail


def equal(left: list[list[Tensor]], right: list[list[Tensor]]) -> bool:
    return len(left) == len(right) and all(map(same, left, right))


class Accumulating(Module):
    """Manual optimization: the micro-batches of a step are kept, and one closure runs them all."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.automatic_optimization = False
        self.window: list[Any] = []

    def training_step(self, batch: Any, batch_idx: int) -> None:
        opt = self.optimizers()
        self.window.append(batch)
        if len(self.window) < 2:
            return

        def closure() -> Tensor:
            opt.zero_grad()
            total = torch.zeros(())
            for micro_batch in self.window:
                loss = self.loss(micro_batch) / len(self.window)
                self.manual_backward(loss)
                total += loss.detach()
            return total

        opt.step(closure)
        self.window.clear()


class InContext(Module):
    """Manual optimization with the second pass in a context."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        opt = self.optimizers()
        opt.zero_grad()
        self.manual_backward(self.loss(batch))
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        with opt.perturbed(scaler=scaler):
            self.manual_backward(self.loss(batch))
        opt.step()


def half(init_scale: float = 1024.0) -> SharpnessAwareMixedPrecision:
    scaler = torch.amp.GradScaler("cpu", init_scale=init_scale, growth_interval=1000)
    return SharpnessAwareMixedPrecision("16-mixed", "cpu", scaler)
