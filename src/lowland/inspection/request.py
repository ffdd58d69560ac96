"""What is asked for: instruments with their options, blocks, examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lowland.core.errors import InputError, unknown
from lowland.inspection.constructors import literal
from lowland.inspection.presets import Preset, get_preset
from lowland.measure import INSTRUMENTS, Instrument, option_names, read_options

DEFAULT = ("rank", "active")
"""What is measured where nobody says otherwise."""

EXAMPLES = 2048
"""How many examples are measured where nobody says otherwise: a rank cannot exceed their number,
and a forward pass over them takes seconds to minutes on a CPU."""

BATCH = 64
ORDERS = ("classes", "file")


@dataclass(frozen=True, kw_only=True)
class Request:
    """Everything that `lowland inspect` is asked beside models and data.

    Attributes:
        instruments: in the order in which they are shown.
        options: instrument -> options, of preset and user.
        preset: or None.
        blocks: glob, or None for each network's own.
        examples: at most so many.
        split: or None.
        order: which are the first: "file" as they are stored, "classes" with classes in turn.
        batch_size: examples per forward pass.
        device: "auto", "cpu", "cuda" or "cuda:N".
        where: what of each block, as for `lowland.measure.capture`.
        tokens: what of outputs (b, tokens, d); None for each network's own.
        spatial: "flatten" or "mean": what of outputs (b, c, h, w).
    """

    instruments: tuple[Instrument, ...]
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    preset: Preset | None = None
    blocks: str | None = None
    examples: int = EXAMPLES
    split: str | None = None
    order: str = "file"
    batch_size: int = BATCH
    device: str = "auto"
    where: str = "output"
    tokens: str | None = None
    spatial: str = "flatten"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "what": [instrument.name for instrument in self.instruments],
            "options": {name: dict(given) for name, given in self.options.items()},
            "preset": None if self.preset is None else self.preset.name,
            "blocks": self.blocks,
            "examples": self.examples,
            "split": self.split,
            "order": self.order,
            "batch_size": self.batch_size,
            "device": self.device,
            "where": self.where,
            "tokens": self.tokens,
            "spatial": self.spatial,
        }


def make_request(
    *,
    what: str = "",
    settings: Sequence[str] = (),
    preset: str | None = None,
    examples: int | None = None,
    split: str | None = None,
    batch_size: int | None = None,
    **rest: Any,
) -> Request:
    """A request from words.

    Args:
        what: names of instruments with commas between; ``all``; empty for the preset's, or
            `DEFAULT`.
        settings: ``["rank.variance=0.95"]``, over the preset's options.
        preset: name of a preset.
        examples: how many; None for the preset's number, or `EXAMPLES`.
        split: None for the preset's, or train, where the data has splits.
        batch_size: None for `BATCH`.
        rest: the other attributes of `Request`.

    Raises:
        InputError: an unknown name (the nearest one is given), or a value out of range.
    """
    chosen = None if preset is None else get_preset(preset)
    names = _names(what) or (chosen.what if chosen else DEFAULT)
    instruments = tuple(_instrument(name) for name in dict.fromkeys(names))
    options = {i.name: chosen.options_of(i) if chosen else {} for i in instruments}
    for setting in settings:
        name, key, value = _setting(setting, instruments)
        options[name][key] = value
    fallback = chosen.examples if chosen else EXAMPLES
    count = fallback if examples is None else examples
    size = BATCH if batch_size is None else batch_size
    if rest.get("order", "file") not in ORDERS:
        raise unknown("order", rest["order"], ORDERS)
    for word, number in (("examples", count), ("batch-size", size)):
        if number < 1:
            raise InputError(f"--{word} must be 1 or more, not {number}")
    return Request(
        instruments=instruments,
        options=read_options({name: given for name, given in options.items() if given}),
        preset=chosen,
        examples=count,
        split=split,
        batch_size=size,
        **rest,
    )


def _names(what: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in what.split(",") if part.strip())
    return tuple(INSTRUMENTS) if names == ("all",) else names


def _instrument(name: str) -> Instrument:
    if name not in INSTRUMENTS:
        raise unknown("instrument", name, INSTRUMENTS)
    return INSTRUMENTS[name]


def _setting(text: str, instruments: Sequence[Instrument]) -> tuple[str, str, Any]:
    place, equals, value = text.partition("=")
    name, dot, key = place.strip().partition(".")
    if not equals or not dot or not value:
        raise InputError(f"setting {text!r}: write INSTRUMENT.OPTION=VALUE, as rank.variance=0.95")
    chosen = {instrument.name: instrument for instrument in instruments}
    if name not in chosen:
        _instrument(name)
        raise InputError(f"setting {text!r}: {name} is not measured; add it to --what")
    known = option_names(chosen[name])
    if key not in known:
        raise unknown(f"option of {name}", key, known)
    return name, key, literal(value.strip())
