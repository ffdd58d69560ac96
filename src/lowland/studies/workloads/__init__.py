"""SAM's gain against the size of networks other than MLPs (arXiv 2311.17539): `STUDY`."""

from lowland.studies.study import Study
from lowland.studies.workloads.plan import plan

STUDY = Study(
    name="overparam/workloads",
    title="Does SAM need overparameterisation? LSTM, graph network, ViT, ResNet",
    source="S. Shin, D. Lee, M. Andriushchenko, N. Lee, arXiv 2311.17539, 2023",
    shows="SAM's gain over SGD and the best ρ against the number of parameters, workload by "
    "workload",
    sizes={
        "smoke": "seconds; shows that everything works, nothing else",
        "default": "about 2 minutes on two CPU cores; 10 seeds, small networks on digits",
        "paper": "ResNet-18 and ViT by width on images of your own, for example CIFAR-10; a GPU",
    },
    settings={"published": "momentum SGD with weight decay; learning rates chosen by workload"},
    plan=plan,
)

__all__ = ["STUDY"]
