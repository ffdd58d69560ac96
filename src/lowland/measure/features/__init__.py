"""Features of a model's blocks, and what can be said of them: rank, activity, neighbours, ..."""

from lowland.measure.features.active import ActiveUnits, active_units
from lowland.measure.features.bounds import RankBounds, rank_bounds
from lowland.measure.features.capture import capture, residual_streams, stream
from lowland.measure.features.cka import CKA, CKAMatrix, cka, cka_matrix
from lowland.measure.features.collapse import NeuralCollapse, neural_collapse
from lowland.measure.features.distinct import DistinctUnits, distinct_units
from lowland.measure.features.family import FeatureSpectrum, SpectralRank, feature_spectrum
from lowland.measure.features.neighbors import NeighborError, knn_error
from lowland.measure.features.rank import RANK_PRESETS, FeatureRank, feature_rank
from lowland.measure.features.ranks import (
    effective_rank,
    entropy_rank,
    mean_energy,
    numerical_rank,
    participation_ratio,
    rankme,
    stable_rank,
)
from lowland.measure.features.retrieval import RetrievalError, retrieval_error

__all__ = [
    "CKA",
    "RANK_PRESETS",
    "ActiveUnits",
    "CKAMatrix",
    "DistinctUnits",
    "FeatureRank",
    "FeatureSpectrum",
    "NeighborError",
    "NeuralCollapse",
    "RankBounds",
    "RetrievalError",
    "SpectralRank",
    "active_units",
    "capture",
    "cka",
    "cka_matrix",
    "distinct_units",
    "effective_rank",
    "entropy_rank",
    "feature_rank",
    "feature_spectrum",
    "knn_error",
    "mean_energy",
    "neural_collapse",
    "numerical_rank",
    "participation_ratio",
    "rank_bounds",
    "rankme",
    "residual_streams",
    "retrieval_error",
    "stable_rank",
    "stream",
]
