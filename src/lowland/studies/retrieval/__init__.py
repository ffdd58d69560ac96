"""The study `low-rank/retrieval`: is what SAM leaves of the rank worth anything to a search?

Three grids of ρ × seed. Networks trained on all classes: their features are searched, exactly and
approximately, after PCA and quantization. Networks trained on half of the classes: neighbours are
looked for among the other half. Networks trained on three classes: does the rank adapt?

ρ, learning rate and epochs of the default size are those of `low-rank`, chosen there on seeds from
1000 on; recall 0.95 and 1% error, at which effects are judged, and the thresholds were set before
anything ran on the study's own seeds, 0, 1, 2, ...
"""

from __future__ import annotations

from lowland.studies.retrieval.plan import plan
from lowland.studies.study import Study

STUDY = Study(
    name="low-rank/retrieval",
    title="Retrieval and quantization with low-rank features",
    source=(
        "M. Andriushchenko, D. Bahri, H. Mobahi, N. Flammarion, arXiv 2305.16292, 2023: §7; "
        "A. Ramesh et al., arXiv 2204.06125, 2022"
    ),
    shows="components, bits and operations for the same recall or reconstruction, against ρ",
    sizes={
        "smoke": "seconds; shows that everything works, nothing else",
        "default": "3 to 4 minutes on two CPU cores; digits",
        "paper": "the published networks, days on one GPU; give --data",
    },
    settings={"minimal": "no momentum, no weight decay, constant learning rate"},
    plan=plan,
)
