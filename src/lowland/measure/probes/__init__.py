"""Probes: what a linear classifier of frozen features finds."""

from lowland.measure.probes.annotated import FeatureProbes, feature_probes
from lowland.measure.probes.few_shot import FewShotProbe, ShotError, few_shot_probe
from lowland.measure.probes.groups import GroupError, GroupErrors, group_errors
from lowland.measure.probes.labels import joint_groups
from lowland.measure.probes.linear import DFR_C, LinearProbe, ProbeFit, linear_probe

__all__ = [
    "DFR_C",
    "FeatureProbes",
    "FewShotProbe",
    "GroupError",
    "GroupErrors",
    "LinearProbe",
    "ProbeFit",
    "ShotError",
    "feature_probes",
    "few_shot_probe",
    "group_errors",
    "joint_groups",
    "linear_probe",
]
