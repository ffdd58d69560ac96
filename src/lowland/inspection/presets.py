"""Published conventions by name: which data, which instruments, with which options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lowland.core.errors import unknown
from lowland.measure import Instrument, option_names


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One paper's convention.

    Attributes:
        name: what it is called on the command line.
        words: what it amounts to, in a sentence.
        source: where it comes from.
        what: instruments that it measures where the user names none.
        examples: how many.
        split: of which split.
        options: instrument -> options.
        where_known: instrument -> options that are given only if the instrument takes them.
    """

    name: str
    words: str
    source: str
    what: tuple[str, ...]
    examples: int
    split: str
    options: Mapping[str, Mapping[str, Any]]
    where_known: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def options_of(self, instrument: Instrument) -> dict[str, Any]:
        """What this preset gives an instrument."""
        known = option_names(instrument)
        extra = self.where_known.get(instrument.name, {})
        return {
            **self.options.get(instrument.name, {}),
            **{key: value for key, value in extra.items() if key in known},
        }


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            name="low-rank-paper",
            words=(
                "10,240 training images in file order, not augmented, eval mode; rank at 99% of "
                "the energy with each example centred over its own features; units above 5% of "
                "the largest value on at least one example"
            ),
            source="arXiv 2305.16292",
            what=("rank", "active"),
            examples=10_240,
            split="train",
            options={
                "rank": {"variance": 0.99, "center": "example"},
                "active": {"rule": "maximum", "share": 0.05},
            },
            # the released code counts one more where a sum meets the share exactly
            where_known={"rank": {"rule": "published"}},
        ),
    )
}
"""Name -> preset."""


def get_preset(name: str) -> Preset:
    """A preset by name.

    Raises:
        InputError: there is none of that name; the nearest one is given.
    """
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    return PRESETS[name]
