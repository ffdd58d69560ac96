"""The toys of SAM's analyses: saddles, normalization, rates under PL, membership.

`STUDY` is `overparam/toys`: claims of arXiv 2301.06308, 2305.15287, 2503.02225 and 2202.01243 on
problems of a few dimensions, exact or nearly so, over random draws of the problem.
"""

from lowland.studies.study import Study
from lowland.studies.toys.plan import DATA, plan

STUDY = Study(
    name="overparam/toys",
    title="Toys of the analyses: saddles, normalization, PL rates, membership",
    source="Kim et al., arXiv 2301.06308; Dai et al., 2305.15287; Oikonomou and Loizou, "
    "2503.02225; Tan et al., 2202.01243",
    shows="where SAM is trapped, what normalization does, rates under PL, and who can tell what "
    "was trained on, each against its formula",
    sizes={
        "smoke": "seconds; shows that everything works, nothing else",
        "default": "about a minute on two CPU cores; ten draws of every problem",
        "paper": "thirty draws, longer runs, a few minutes",
    },
    settings={"published": "the published steps, radii and step sizes where there are any"},
    plan=plan,
    data=DATA,
)

__all__ = ["STUDY"]
