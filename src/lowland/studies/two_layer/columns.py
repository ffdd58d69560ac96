"""Names of the groups and columns of the two-layer study."""

from __future__ import annotations

from lowland.studies.two_layer.activations import ACTIVATIONS
from lowland.studies.two_layer.draws import TEACHER_UNITS

SAM = {name: f"{name}/sam" for name in ACTIVATIONS}
GRADIENT_NORM = "relu/gradient-norm"
STEP = "relu/step"
PUBLISHED = {"sam": "published/sam", "gradient-norm": "published/gradient-norm"}
PUBLISHED_SEED = 4

DECAYS = (0.0001, 0.001, 0.003, 0.01)
"""Weight decays beside none: from next to nothing to one that underfits (chosen on seeds from
1000 on)."""

TEACHERS = (1, 2, 5, 10, 20)
"""Units of the teachers beside the published three."""

RANK, ACTIVE, DISTINCT = "feature_rank", "active_units", "distinct_units"
NORM, TRAIN, TEST, PULL = "weight_norm", "train_loss", "test_loss", "pull"
UNIT_NORM, INACTIVE_NORM = "unit_norm", "inactive_norm"
ITERATION = "iteration"


def decay_group(decay: float) -> str:
    """The group of a weight decay."""
    return f"relu/weight-decay/{decay:g}"


def teacher_group(units: int) -> str:
    """The group of a teacher; that of three units is the main one."""
    return SAM["relu"] if units == TEACHER_UNITS else f"relu/teacher/{units}"
