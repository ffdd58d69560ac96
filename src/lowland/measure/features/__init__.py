"""Features of a model's blocks, and what can be said of them: rank, activity, neighbours."""

from lowland.measure.features.active import ActiveUnits, active_units
from lowland.measure.features.capture import capture, stream
from lowland.measure.features.neighbors import NeighborError, knn_error
from lowland.measure.features.rank import FeatureRank, feature_rank

__all__ = [
    "ActiveUnits",
    "FeatureRank",
    "NeighborError",
    "active_units",
    "capture",
    "feature_rank",
    "knn_error",
    "stream",
]
