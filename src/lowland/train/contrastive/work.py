"""Training two towers on pairs, as the loop sees it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lowland.core.seeds import derived_seed, generator
from lowland.models import TwoTowers
from lowland.train.contrastive.evaluate import PairEvaluator
from lowland.train.contrastive.images import ImageTower, build_images
from lowland.train.contrastive.plan import ContrastivePlan
from lowland.train.contrastive.text_tower import build_texts
from lowland.train.contrastive.texts import Texts
from lowland.train.contrastive.trainer import PairTrainer
from lowland.train.job import Work


def start(plan: ContrastivePlan) -> Work:
    """Trainer, evaluations and batches of a plan, on its device."""
    images, module, texts = build(plan)
    data = plan.data.to(plan.device)
    texts = {name: part.to(plan.device) for name, part in texts.items()}
    trainer = PairTrainer(plan, module, images)
    evaluator = PairEvaluator(plan.recipe, trainer.module, images, data, texts)

    def batches(epoch: int, first: int) -> Iterator[tuple[Tensor, ...]]:
        seed, size = plan.recipe.seed, plan.recipe.batch_size
        order = torch.randperm(len(data.train), generator=generator("cpu", seed, "order", epoch))
        order = order.to(plan.device)

        def batch(step: int) -> tuple[Tensor, ...]:
            rows = order[step * size : (step + 1) * size]
            draws = generator("cpu", seed, "caption", epoch, step)
            return data.train.images[rows], *texts["train"].drawn(rows, draws)

        return map(batch, range(first, plan.steps_per_epoch))

    return Work(trainer=trainer, evaluator=evaluator, batches=batches)


def build(
    plan: ContrastivePlan, *, trial: bool = False
) -> tuple[ImageTower, TwoTowers, dict[str, Texts]]:
    """The image tower, both towers with their heads, and all texts, on the CPU.

    Args:
        plan: what is trained.
        trial: only find out whether it works (see `build_texts`).
    """
    recipe = plan.recipe
    images = build_images(recipe, plan.data)
    texts = build_texts(recipe, plan.data, trial=trial)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(recipe.seed, "initialisation", "heads"))
        module = TwoTowers(
            images.module,
            texts.module,
            widths=(images.width, texts.width),
            dimension=recipe.dimension,
            bottleneck=recipe.bottleneck,
        )
    return images, module, texts.texts
