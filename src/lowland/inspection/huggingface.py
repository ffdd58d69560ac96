"""Networks of transformers, from the Hub or a folder, with their own image or text processing."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lowland.core.errors import InputError
from lowland.data import Preprocessing
from lowland.inspection.subject import Encode, Subject, default_blocks, stands_for_all
from lowland.inspection.towers import tower_of
from lowland.models.hub import (
    image_settings,
    transformers_network,
    transformers_place,
    transformers_tokenizer,
)

_RESAMPLE = {0: "nearest", 1: "bicubic", 2: "bilinear", 3: "bicubic"}


def open_huggingface(name: str, tower: str | None = None) -> Subject:
    """``hf:NAME``, a folder or a name on the Hub, in float32.

    A classifier is loaded with its head, anything else without one. Of a network of images and
    texts (CLIP) one tower is taken, "image" or "text"; None is "image". Images are made as the
    stored image processor says, texts by the stored tokenizer, with an attention mask. Code that
    comes with a model is never run.

    Raises:
        InputError: transformers is missing, or the model or its processor cannot be loaded.
    """
    where = transformers_place(name)
    import transformers

    module, head, notes = transformers_network(name, where)
    part = tower_of(name, module, tower)
    taken = None if part is None else tower or "image"
    settings = None if taken == "text" else image_settings(where)
    encode = None if settings is not None or taken == "image" else _encoder(name, where)
    kind, network = f"transformers {transformers.__version__}", type(module).__name__
    if part is not None:
        module, kind = part, f"{kind}, {taken} tower"
        notes += (f"The {taken} tower alone, with its projection; --tower takes the other.",)
    if head:
        module.register_forward_hook(_logits)
    if encode is not None:
        module.register_forward_pre_hook(_by_name, with_kwargs=True)
    return Subject(
        name=name,
        kind=kind,
        module=module.eval(),
        blocks=default_blocks(module),
        preprocessing=None if settings is None else _preprocessing(settings),
        encode=encode,
        logits=head,
        tokens="mean" if encode is not None else stands_for_all(module),
        facts={"class": network},
        notes=notes,
    )


def _by_name(module: nn.Module, args: Any, kwargs: Any) -> Any:
    """Named inputs in one mapping become arguments."""
    if args and isinstance(args[0], dict):
        return args[1:], {**args[0], **kwargs}
    return None


def _logits(module: nn.Module, inputs: Any, output: Any) -> Tensor:
    """The logits alone, as every other network gives them."""
    logits: Tensor = output.logits
    return logits


def _preprocessing(settings: dict[str, Any]) -> Preprocessing:
    normalised = settings.get("do_normalize", True)
    size = settings.get("size") if settings.get("do_resize", True) else None
    crop = settings.get("crop_size") if settings.get("do_center_crop") else None
    side, both = _sides(size)
    target = _sides(crop)[1] or both or (None if side is None else (side, side))
    resize = side if side is not None else (min(both) if both and crop else None)
    return Preprocessing(
        mean=tuple(settings["image_mean"]) if normalised else (0.0,),
        std=tuple(settings["image_std"]) if normalised else (1.0,),
        size=target,
        resize=resize,
        squash=both is not None and crop is None,
        interpolation=_RESAMPLE.get(settings.get("resample", 2), "bicubic"),
        unit=255.0 * settings.get("rescale_factor", 1 / 255)
        if settings.get("do_rescale", True)
        else 255.0,
    )


def _sides(size: Any) -> tuple[int | None, tuple[int, int] | None]:
    """The shorter side, or height and width."""
    if isinstance(size, int):
        return size, None
    if not isinstance(size, dict):
        return None, None
    if "height" in size:
        return None, (size["height"], size["width"])
    return size.get("shortest_edge"), None


def _encoder(name: str, where: str) -> Encode:
    tokenizer = transformers_tokenizer(
        name, where, lacks="has neither an image processor nor a tokenizer"
    )
    if "attention_mask" not in tokenizer.model_input_names:
        raise InputError(
            f"{name}: its tokenizer makes no attention mask, so that padding would be measured: "
            "use a tokenizer that does"
        )

    def encode(texts: list[str]) -> dict[str, Any]:
        found = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        return {key: found[key] for key in tokenizer.model_input_names if key in found}

    return encode
