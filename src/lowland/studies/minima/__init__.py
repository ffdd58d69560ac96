"""Minima and rates under overparameterisation (arXiv 2311.17539, theory): `overparam/minima`.

Hessian moments at the end points of SGD, SAM and USAM on small networks, the condition of linear
stability on quadratics and at these minima, and linear rates on least squares.
"""

from lowland.studies.minima.plan import DATA, plan
from lowland.studies.study import Study

STUDY = Study(
    name="overparam/minima",
    title="Overparameterisation and SAM: Hessian moments, stability, linear rates",
    source="S. Shin, D. Lee, M. Andriushchenko, N. Lee, arXiv 2311.17539, UAI 2025, theory",
    shows="moments of single examples' Hessians at the minima of SGD and SAM, the stability "
    "condition verified, and the rate of stochastic SAM against the number of features",
    sizes={
        "smoke": "seconds; shows that everything works, nothing else",
        "default": "about half a minute on two CPU cores; ten seeds",
        "paper": "thirty seeds, longer runs, a few minutes",
    },
    settings={"published": "one example per step, constant η and ρ, as in the theory"},
    plan=plan,
    data=DATA,
)

__all__ = ["STUDY"]
