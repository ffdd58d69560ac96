"""Several ranks of the same features from one spectrum."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from lowland.core.records import Measurement
from lowland.measure.features.family import FeatureSpectrum, feature_spectrum
from lowland.measure.features.rank import feature_rank
from lowland.measure.features.ranks import (
    effective_rank,
    entropy_rank,
    participation_ratio,
    rankme,
    stable_rank,
)

_METHODS: dict[Callable[..., Measurement], Callable[..., Measurement]] = {
    feature_rank: FeatureSpectrum.rank,
    effective_rank: FeatureSpectrum.effective_rank,
    entropy_rank: FeatureSpectrum.entropy_rank,
    participation_ratio: FeatureSpectrum.participation_ratio,
    rankme: FeatureSpectrum.rankme,
    stable_rank: FeatureSpectrum.stable_rank,
}


class SharedSpectra:
    """Features with the spectra that were taken of them, one for each centring."""

    def __init__(self, features: Any) -> None:
        self._features = features
        self._spectra: dict[str, FeatureSpectrum] = {}

    def ask(self, measure: Callable[..., Any], options: Mapping[str, Any]) -> Measurement:
        """``measure(features, **options)``, from a spectrum that is there already if it can be.

        Only `seconds` differs: the spectrum counts for the first that needs it.
        """
        chosen = dict(options)
        smallest = chosen.pop("rule", "smallest") == "smallest"
        if measure not in _METHODS or not smallest:
            found: Measurement = measure(self._features, **options)
            return found
        center = chosen.pop("center", inspect.signature(measure).parameters["center"].default)
        if center not in self._spectra:
            self._spectra[center] = feature_spectrum(self._features, center)
        return _METHODS[measure](self._spectra[center], **chosen)
