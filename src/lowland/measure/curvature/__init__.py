"""Second derivatives of the loss: products, eigenvalues, trace, density, and per example."""

from lowland.measure.curvature.density import HessianDensity, hessian_density
from lowland.measure.curvature.eigenvalues import (
    HessianEigenvalues,
    hessian_eigenvalues,
    max_eigenvalue,
)
from lowland.measure.curvature.moments import HessianMoments, hessian_moments
from lowland.measure.curvature.operator import HessianOperator
from lowland.measure.curvature.per_example import ExampleHessians
from lowland.measure.curvature.stability import SAMStability, sam_stability
from lowland.measure.curvature.trace import HessianTrace, hessian_trace

__all__ = [
    "ExampleHessians",
    "HessianDensity",
    "HessianEigenvalues",
    "HessianMoments",
    "HessianOperator",
    "HessianTrace",
    "SAMStability",
    "hessian_density",
    "hessian_eigenvalues",
    "hessian_moments",
    "hessian_trace",
    "max_eigenvalue",
    "sam_stability",
]
