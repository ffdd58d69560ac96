"""Instruments of privacy: how well it can be told on which examples a model was trained."""

from lowland.measure.privacy.attack import MembershipAttack, score_attack
from lowland.measure.privacy.confidence import logit_scaled_confidence
from lowland.measure.privacy.likelihood_ratio import likelihood_ratio_scores
from lowland.measure.privacy.linear_model import (
    LinearMembership,
    gaussian_advantage,
    linear_membership,
)
from lowland.measure.privacy.loss_threshold import loss_threshold_attack, membership_advantage
from lowland.measure.privacy.shadows import (
    LikelihoodRatioAttack,
    likelihood_ratio_advantage,
    likelihood_ratio_attack,
)

__all__ = [
    "LikelihoodRatioAttack",
    "LinearMembership",
    "MembershipAttack",
    "gaussian_advantage",
    "likelihood_ratio_advantage",
    "likelihood_ratio_attack",
    "likelihood_ratio_scores",
    "linear_membership",
    "logit_scaled_confidence",
    "loss_threshold_attack",
    "membership_advantage",
    "score_attack",
]
