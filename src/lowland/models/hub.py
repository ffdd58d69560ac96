"""Networks of timm and transformers: loaded, with one line for whatever goes wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lowland.core.errors import InputError, one_line

HEADS = {
    "ForImageClassification": "AutoModelForImageClassification",
    "ForSequenceClassification": "AutoModelForSequenceClassification",
}
"""Endings of the stored architecture -> class that loads it; any other is loaded without a head."""


def timm_network(
    name: str, model: str, *, pretrained: bool = True, **options: Any
) -> tuple[nn.Module, dict[str, Any]]:
    """A network of timm, and what timm records about the images that its weights want.

    Args:
        name: what the user wrote, for messages.
        model: timm's name, after a colon.
        pretrained: with weights, which timm fetches unless it has them already.
        options: for ``timm.create_model``.

    Raises:
        InputError: timm is missing, or cannot make the network.
    """
    try:
        import timm
        from timm.data import resolve_model_data_config
    except Exception as error:  # an import that fails in any way, as where torchvision is broken
        raise InputError(
            f"{name} needs timm, which cannot be imported ({one_line(error)}): pip install timm"
        ) from None
    try:
        module = timm.create_model(model.partition(":")[2], pretrained=pretrained, **options)
    except Exception as error:  # unknown names, no network, no weights: each its own kind
        raise InputError(f"{name}: timm cannot make it: {one_line(error)}") from None
    return module, resolve_model_data_config(module)


def transformers_place(name: str) -> str:
    """The folder, or name on the Hub, that ``hf:NAME`` means.

    Raises:
        InputError: no name, no such folder, or transformers is missing.
    """
    where = name.partition(":")[2]
    if not where:
        raise InputError(f"model {name!r} lacks its name: hf:NAME or hf:FOLDER")
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"{name} needs transformers ({one_line(error)}): pip install transformers"
        ) from None
    path = Path(where).expanduser()
    if where.startswith((".", "/", "~")) and not path.is_dir():
        raise InputError(f"{where}: no such folder")
    return str(path) if path.is_dir() else where


def transformers_network(
    name: str, where: str, *, heads: bool = True
) -> tuple[nn.Module, bool, tuple[str, ...]]:
    """A network of transformers in float32, whether it gives logits, and a note on weights that
    the checkpoint lacks. Code that comes with a model is never run.

    Args:
        name: what the user wrote, for messages.
        where: see `transformers_place`.
        heads: load a classifier with its head.

    Raises:
        InputError: it cannot be loaded.
    """
    import transformers
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        config = transformers.AutoConfig.from_pretrained(where)
        stored = (getattr(config, "architectures", None) or [""])[0]
        head = next((kind for ending, kind in HEADS.items() if stored.endswith(ending)), None)
        loader = getattr(transformers, (head if heads else None) or "AutoModel")
        module, found = loader.from_pretrained(where, dtype=torch.float32, output_loading_info=True)
    except Exception as error:  # unknown names, no network, broken files: each its own kind
        raise InputError(
            f"{name}: transformers cannot load it: {one_line(error).rstrip('.')}: check the name, "
            "or give a folder that save_pretrained wrote, hf:FOLDER"
        ) from None
    finally:
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    return module, heads and head is not None, _missing(found)


def transformers_tokenizer(name: str, where: str, *, lacks: str = "has no tokenizer") -> Any:
    """The tokenizer stored with a network of transformers, made so that it pads on the right.

    There the first token is the first of the text, and positions count from it. One without a token
    for padding (GPT-2) pads with its end of text: the attention mask hides it.

    Args:
        name: what the user wrote, for messages.
        where: see `transformers_place`.
        lacks: how the message begins if none can be loaded.

    Raises:
        InputError: it cannot be loaded, knows no word, or has nothing to pad with.
    """
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(where)
    except Exception as error:  # a folder without one, no network: each its own kind
        raise InputError(f"{name} {lacks} that can be loaded: {one_line(error)}") from None
    if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
        # transformers makes an empty one where the folder has no words
        raise InputError(
            f"{name} has no tokenizer that knows any word: save it beside the network with "
            "save_pretrained"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise InputError(
            f"{name}: its tokenizer has neither a token for padding nor an end of text: set its "
            "pad_token and save it again"
        )
    tokenizer.padding_side = "right"
    return tokenizer


def image_settings(where: str) -> dict[str, Any] | None:
    """What the stored image processor of transformers says; None for a model without one."""
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


def _missing(found: dict[str, Any]) -> tuple[str, ...]:
    names = sorted(found.get("missing_keys", ()))
    if not names:
        return ()
    more = ", ..." if len(names) > 2 else ""
    return (
        f"{len(names)} tensors are not in the checkpoint and were drawn at random "
        f"({', '.join(names[:2])}{more}).",
    )
