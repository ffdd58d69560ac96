"""Networks of transformers, from the Hub or a folder, with their own image or text processing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lowland.core.errors import InputError
from lowland.data import Preprocessing
from lowland.inspection.subject import Encode, Subject, default_blocks, one_line, stands_for_all
from lowland.inspection.towers import tower_of

HEADS = {
    "ForImageClassification": "AutoModelForImageClassification",
    "ForSequenceClassification": "AutoModelForSequenceClassification",
}
"""Endings of the stored architecture -> class that loads it; any other is loaded without a head."""

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
    where = name.partition(":")[2]
    if not where:
        raise InputError(f"model {name!r} lacks its name: hf:NAME or hf:FOLDER")
    try:
        import transformers
    except ImportError as error:
        raise InputError(
            f"{name} needs transformers ({one_line(error)}): pip install transformers"
        ) from None
    if where.startswith((".", "/", "~")) and not Path(where).expanduser().is_dir():
        raise InputError(f"{where}: no such folder")
    where = str(Path(where).expanduser()) if Path(where).expanduser().is_dir() else where
    module, head, notes = _loaded(name, where)
    part = tower_of(name, module, tower)
    taken = None if part is None else tower or "image"
    settings = None if taken == "text" else _image_settings(where)
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


def _loaded(name: str, where: str) -> tuple[nn.Module, bool, tuple[str, ...]]:
    """The network, whether it gives logits, and a note on weights that the checkpoint lacks."""
    import transformers
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        config = transformers.AutoConfig.from_pretrained(where)
        stored = (getattr(config, "architectures", None) or [""])[0]
        head = next((kind for ending, kind in HEADS.items() if stored.endswith(ending)), None)
        loader = getattr(transformers, head or "AutoModel")
        module, found = loader.from_pretrained(where, dtype=torch.float32, output_loading_info=True)
    except Exception as error:  # unknown names, no network, broken files: each its own kind
        raise InputError(
            f"{name}: transformers cannot load it: {one_line(error).rstrip('.')}: check the name, "
            "or give a folder that save_pretrained wrote, hf:FOLDER"
        ) from None
    finally:
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    return module, head is not None, _missing(found)


def _missing(found: dict[str, Any]) -> tuple[str, ...]:
    names = sorted(found.get("missing_keys", ()))
    if not names:
        return ()
    more = ", ..." if len(names) > 2 else ""
    return (
        f"{len(names)} tensors are not in the checkpoint and were drawn at random "
        f"({', '.join(names[:2])}{more}).",
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


def _image_settings(where: str) -> dict[str, Any] | None:
    """What the stored image processor says; None for a model without one."""
    from transformers.utils.hub import cached_file

    for file in ("preprocessor_config.json", "processor_config.json"):
        found = cached_file(where, file, _raise_exceptions_for_missing_entries=False)
        if found is None:
            continue
        settings = json.loads(Path(found).read_text("utf-8"))
        settings = settings.get("image_processor", settings)
        if "image_mean" in settings or "size" in settings:
            return dict(settings)
    return None


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
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(where)
    except Exception as error:
        raise InputError(
            f"{name} has neither an image processor nor a tokenizer that can be loaded: "
            f"{one_line(error)}"
        ) from None

    if "attention_mask" not in tokenizer.model_input_names:
        raise InputError(
            f"{name}: its tokenizer makes no attention mask, so that padding would be measured: "
            "use a tokenizer that does"
        )

    def encode(texts: list[str]) -> dict[str, Any]:
        found = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        return {key: found[key] for key in tokenizer.model_input_names if key in found}

    return encode
