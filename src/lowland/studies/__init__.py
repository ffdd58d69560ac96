"""Studies: published claims, run again over seeds, that end in a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from lowland.core.errors import unknown
from lowland.studies.balance import STUDY as BALANCE
from lowland.studies.bottleneck import STUDY as BOTTLENECK
from lowland.studies.causes import STUDY as CAUSES
from lowland.studies.checkpoints import STUDY as CHECKPOINTS
from lowland.studies.contrastive import STUDY as CONTRASTIVE
from lowland.studies.domains import STUDY as DOMAINS
from lowland.studies.families import PLACES, claims_table, family
from lowland.studies.folder import default_folder
from lowland.studies.low_rank import STUDY as LOW_RANK
from lowland.studies.mechanism import STUDY as MECHANISM
from lowland.studies.methods import STUDY as METHODS
from lowland.studies.minima import STUDY as MINIMA
from lowland.studies.overparam import STUDY as OVERPARAM
from lowland.studies.relu import STUDY as RELU
from lowland.studies.retrieval import STUDY as RETRIEVAL
from lowland.studies.runner import execute
from lowland.studies.study import Choice, Study, radii
from lowland.studies.toys import STUDY as TOYS
from lowland.studies.two_layer import STUDY as TWO_LAYER
from lowland.studies.vit_blocks import STUDY as VIT_BLOCKS
from lowland.studies.workloads import STUDY as WORKLOADS

STUDIES: Mapping[str, Study] = MappingProxyType(
    {
        study.name: study
        for study in (
            LOW_RANK,
            TWO_LAYER,
            RELU,
            CONTRASTIVE,
            VIT_BLOCKS,
            BOTTLENECK,
            CHECKPOINTS,
            RETRIEVAL,
            CAUSES,
            BALANCE,
            MECHANISM,
            DOMAINS,
            OVERPARAM,
            MINIMA,
            TOYS,
            WORKLOADS,
            METHODS,
        )
    }
)
"""Every study by name."""


def get(name: str) -> Study:
    """A study by name.

    Raises:
        InputError: there is none; the nearest name is given.
    """
    if name not in STUDIES:
        raise unknown("study", name, STUDIES)
    return STUDIES[name]


__all__ = [
    "PLACES",
    "STUDIES",
    "Choice",
    "Study",
    "claims_table",
    "default_folder",
    "execute",
    "family",
    "get",
    "radii",
]
