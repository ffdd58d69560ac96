"""Features of a model's blocks, and what can be said of them: rank, activity, neighbours, ..."""

from lowland.measure.features.active import ActiveUnits, active_units
from lowland.measure.features.capture import capture, residual_streams, stream
from lowland.measure.features.cka import CKA, CKAMatrix, cka, cka_matrix
from lowland.measure.features.collapse import NeuralCollapse, neural_collapse
from lowland.measure.features.distinct import DistinctUnits, distinct_units
from lowland.measure.features.neighbors import NeighborError, knn_error
from lowland.measure.features.rank import FeatureRank, feature_rank
from lowland.measure.features.retrieval import RetrievalError, retrieval_error

__all__ = [
    "CKA",
    "ActiveUnits",
    "CKAMatrix",
    "DistinctUnits",
    "FeatureRank",
    "NeighborError",
    "NeuralCollapse",
    "RetrievalError",
    "active_units",
    "capture",
    "cka",
    "cka_matrix",
    "distinct_units",
    "feature_rank",
    "knn_error",
    "neural_collapse",
    "residual_streams",
    "retrieval_error",
    "stream",
]
