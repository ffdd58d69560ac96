"""SAM on domains that training has not seen, as one study."""

from lowland.studies.domains.plan import plan
from lowland.studies.study import Study

STUDY = Study(
    name="balance/domains",
    title="Does SAM help on domains that training has not seen?",
    source="J. M. Springer, V. Nagarajan, A. Raghunathan, arXiv 2405.20439, ICLR 2024",
    shows=(
        "errors on a domain left out with ρ chosen on the others, as trained and after the last "
        "layer is trained again"
    ),
    sizes={
        "smoke": "seconds; shows that everything works, not what is true",
        "default": "about 3 minutes on two cores, on rotated and coloured digits, 10 seeds",
        "paper": (
            "ResNet-18 on the domains of --data domains:FOLDER, 3 seeds: hours on one GPU; the "
            "published setting is not known"
        ),
    },
    settings={"standard": "SGD with momentum, cosine, weight decay; nothing moves the images"},
    plan=plan,
)

__all__ = ["STUDY"]
