"""The study `low-rank/bottleneck`: does low rank alone, without SAM, improve retrieval?

Linear bottlenecks of several widths at the last layer of both encoders, at ρ = 0, beside SAM
without bottleneck. Data, encoders and training are those of `low-rank/contrastive`. Width and ρ
are chosen on validation data of the other seeds.

Widths of the default size go from an eighth of the 64 dimensions to half of them: a pilot found 4
far too narrow, with a test error twice that of plain training. Everything else was fixed with `low-
rank/contrastive`, on seeds from 1000 on.
"""

from __future__ import annotations

from lowland.studies.bottleneck.plan import plan
from lowland.studies.contrastive.recipes import SETTINGS
from lowland.studies.study import Study

STUDY = Study(
    name="low-rank/bottleneck",
    title="Linear bottlenecks against SAM in image-text training",
    source="M. Andriushchenko, D. Bahri, H. Mobahi, N. Flammarion, arXiv 2305.16292, 2023",
    shows=(
        "retrieval error and rank against the width of a linear bottleneck at the last layer, and "
        "against ρ (§6, Fig. 8)"
    ),
    sizes={
        "smoke": "seconds; shows that everything works, nothing else",
        "default": "3 to 4 minutes on two CPU cores; digits with captions",
        "paper": "the published protocol, days on one GPU; give --data coco:FOLDER",
    },
    settings=SETTINGS,
    plan=plan,
    data="digits-captions",
)
