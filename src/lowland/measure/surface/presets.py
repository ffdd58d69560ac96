"""Published conventions of sharpness, by name."""

from __future__ import annotations

import copy
import math
from typing import Any

from lowland.core.errors import unknown

SHARPNESS_PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "sam": {"one_step_sharpness": {"rho": 0.05}},
    "asam": {
        "one_step_sharpness": {
            "rho": 0.5,
            "adaptive": "elementwise",
            "eta": 0.01,
            "scale_bias": False,
        }
    },
    "andriushchenko-2023": {
        "average_sharpness": {
            "rho": 0.1,
            "adaptive": "elementwise",
            "m": 128,
            "examples": 1024,
            "draws": 20,
            "logits": "unit-norm",
        },
        "worst_sharpness": {
            "rho": 0.1,
            "p": math.inf,
            "adaptive": "elementwise",
            "m": 128,
            "examples": 1024,
            "ascent": "halving",
            "steps": 20,
            "step": 2.0,
            "restarts": 1,
            "logits": "unit-norm",
        },
    },
    "low-rank-paper": {
        "one_step_sharpness": {"rho": 0.01},
        "worst_sharpness": {
            "rho": 0.1,
            "m": 128,
            "examples": 256,
            "ascent": "fixed",
            "steps": 20,
            "step": 0.1,
            "restarts": 1,
        },
    },
}
"""Preset -> instrument -> its options.

"sam": arXiv 2010.01412. "asam": arXiv 2102.11600. "andriushchenko-2023": arXiv 2302.07011 as its
released experiments have it: adaptive, outputs normalised, ρ, m, examples, draws and steps their
defaults; the ascent here moves in T⁻¹ε where theirs moves in ε and projects onto the ellipsoid, so
that both are lower bounds of one maximum. "low-rank-paper": arXiv 2305.16292; its experiments let a
restart count only where the perturbed error is above 0, which is a mistake and left out.
"""


def sharpness_preset(name: str, instrument: str) -> dict[str, Any]:
    """The options of an instrument under a preset, to be given by keyword.

    >>> sharpness_preset("sam", "one_step_sharpness")
    {'rho': 0.05}

    Raises:
        InputError: no such preset, or it says nothing of the instrument.
    """
    if name not in SHARPNESS_PRESETS:
        raise unknown("sharpness preset", name, SHARPNESS_PRESETS)
    if instrument not in SHARPNESS_PRESETS[name]:
        raise unknown(f"instrument of preset {name!r}", instrument, SHARPNESS_PRESETS[name])
    return copy.deepcopy(SHARPNESS_PRESETS[name][instrument])
