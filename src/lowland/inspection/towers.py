"""Networks of images and texts, as CLIP: one of their two towers at a time."""

from __future__ import annotations

from typing import Any

from torch import nn

from lowland.core.errors import InputError, unknown

TOWERS = {
    "image": ("vision", "visual", "image"),
    "text": ("text",),
}
"""Tower -> how the names of its modules begin in transformers."""

_RUN = {"image": "get_image_features", "text": "get_text_features"}


class Tower(nn.Module):
    """One tower with the projection behind it, under the names that they have in the network.

    Args:
        network: with ``get_image_features`` and ``get_text_features``.
        tower: "image", called with pixels, or "text", called with named inputs.
    """

    def __init__(self, network: nn.Module, tower: str) -> None:
        super().__init__()
        self._run = (getattr(network, _RUN[tower]),)  # in a tuple: the other tower is no part of it
        self._takes_pixels = tower == "image"
        for name, module in network.named_children():
            if name.startswith(TOWERS[tower]):
                self.add_module(name, module)

    def forward(self, pixels: Any = None, **named: Any) -> Any:
        (run,) = self._run
        return run(pixel_values=pixels) if self._takes_pixels else run(**named)


def has_towers(network: nn.Module) -> bool:
    """Whether a network of transformers embeds images and texts, each by modules of its own."""
    names = [name for name, _ in network.named_children()]
    return all(
        hasattr(network, _RUN[tower]) and any(name.startswith(stems) for name in names)
        for tower, stems in TOWERS.items()
    )


def tower_of(name: str, network: nn.Module, tower: str | None) -> Tower | None:
    """The tower that was asked for, that of images where none was; None for other networks.

    Raises:
        InputError: an unknown tower, or one of a network that has none.
    """
    if tower is not None and tower not in TOWERS:
        raise unknown("tower", tower, TOWERS)
    if has_towers(network):
        return Tower(network, tower or "image")
    if tower is not None:
        raise InputError(f"--tower is for networks of images and texts, {name} is none of them")
    return None
