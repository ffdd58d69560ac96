"""A network as a reading gets it, without any training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lowland.data import load
from lowland.train import Recipe
from lowland.train.reading import Trained
from lowland.train.trainer import build_model


def made_trained(folder: Path, **recipe: Any) -> Trained:
    """The network of a recipe, its weights moved off their initialisation, in eval mode."""
    asked = Recipe(data="digits", limit=60, rank_examples=40, **recipe)
    data = load("digits", limit=60)
    module = build_model(asked, data.shape, data.classes)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * parameter.std(correction=0) * torch.randn_like(parameter))
    return Trained(module=module.eval(), data=data, recipe=asked, folder=folder, device="cpu")
