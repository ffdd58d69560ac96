"""Networks of timm by name, with the preprocessing that belongs to their weights."""

from __future__ import annotations

from typing import Any

from lowland.data import Preprocessing
from lowland.data.preprocess import INTERPOLATIONS
from lowland.inspection.subject import Subject, default_blocks, stands_for_all
from lowland.models.hub import timm_network


def open_timm(name: str, model: str, *, pretrained: bool = True) -> Subject:
    """``timm:NAME``, with pretrained weights (fetched by timm unless it has them already).

    Mean, standard deviation, size, interpolation and crop are those that timm records for these
    very weights. They differ between weights of one architecture: the ViTs trained with SAM want
    0.5 and 0.5, and ImageNet's usual numbers ruin their accuracy without an error.

    Raises:
        InputError: timm is missing, or cannot make the network.
    """
    module, config = timm_network(name, model, pretrained=pretrained)
    import timm

    return Subject(
        name=name,
        kind=f"timm {getattr(timm, '__version__', '')}".strip(),
        module=module.eval(),
        blocks=default_blocks(module),
        tokens=stands_for_all(module),
        preprocessing=_preprocessing(config),
        facts={"timm": {k: _plain(v) for k, v in config.items()}},
    )


def _preprocessing(config: dict[str, Any]) -> Preprocessing:
    height, width = config["input_size"][1:]
    interpolation = str(config.get("interpolation", "bicubic"))
    crop = float(config.get("crop_pct") or 1.0)
    return Preprocessing(
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        size=(height, width),
        resize=int(min(height, width) / crop),
        squash=config.get("crop_mode") == "squash",
        interpolation=interpolation if interpolation in INTERPOLATIONS else "bicubic",
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
