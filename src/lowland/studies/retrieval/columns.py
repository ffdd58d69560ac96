"""What the study of retrieval measures: groups of runs, and columns that are read off networks."""

from __future__ import annotations

from dataclasses import dataclass

MAIN = "main"
TRANSFER = "transfer"
FEW = "few-classes"
TRAIN_LOSS = "train/loss"
NEIGHBORS = 10
"""True neighbours that are looked for, and nearest examples that vote for a label."""
RECALLS = (0.9, 0.95, 0.99)
RECALL = 0.95
"""The recall at which effects are judged; the others are shown beside."""
ERRORS = (0.01, 0.05, 0.1)
ERROR = 0.01
"""Relative error of reconstruction: the share of the variance that is lost."""
METRICS = ("cosine", "l2")
METRIC = "cosine"
"""The distance of the paper's nearest neighbours."""
FLAT, POOLED = "flattened", "pooled"


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What the claims are about.

    Attributes:
        block: the block whose features are searched.
        database: number of train images that are searched.
        queries: number of test images that are queries.
        transfer_queries: the same of the classes left out of training.
        trained: number of classes of `MAIN`.
        few: number of classes of `FEW`.
    """

    block: str
    database: int
    queries: int
    transfer_queries: int
    trained: int
    few: int


def curve(k: int, metric: str = METRIC) -> str:
    """Recall@10 of exact search among the first k components."""
    return f"recall@{NEIGHBORS}/{metric}/{k}"


def dimensions(recall: float = RECALL, *, metric: str = METRIC, features: str = FLAT) -> str:
    """Components that exact search needs for that recall, between those that were tried."""
    return f"dimensions/{features}/{metric}/{recall:g}"


def bits(recall: float = RECALL, codec: str = "best") -> str:
    """Bits of a vector for that recall: components × bits of the codec."""
    return f"bits/{codec}/{recall:g}"


def operations(recall: float = RECALL) -> str:
    """Multiply-adds of a query: its turn to components, and inverted lists of them."""
    return f"operations/{recall:g}"


def comparing(recall: float = RECALL) -> str:
    """Those of them in the lists."""
    return f"operations-comparing/{recall:g}"


def components(error: float = ERROR) -> str:
    """Components that reconstruct the test images' features with that relative error."""
    return f"components/{error:g}"


def tokens(error: float = ERROR) -> str:
    """Components × bits that do, at the best number of bits."""
    return f"components-bits/{error:g}"


def best_bits(error: float = ERROR) -> str:
    """That number of bits."""
    return f"best-bits/{error:g}"


def width(features: str = FLAT) -> str:
    """Number of features."""
    return f"features/{features}"


def rank() -> str:
    """Components that hold 99% of the variance of the searched images' features."""
    return "components/searched"


def knn(split: str = "test", *, dims: str = "all") -> str:
    """Error of the 10 nearest, by all components or by as many as hold 99% of the variance."""
    return f"knn/{split}/{dims}"


def adaptive() -> str:
    """Components for 99% of the variance of as many images as `FEW` has."""
    return "components/as-many-images"


def training_rank(block: str) -> str:
    """Column of the recipe: the feature rank at 99% of the variance."""
    return f"rank/train/{block}/unit/0.99"
