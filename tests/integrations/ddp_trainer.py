"""One rank of two: `Trainer` with accumulation, its weights after every step into a file."""

import functools
import sys
from pathlib import Path

import torch
from hf_cases import RHO, trainer
from tiny_trainers import sentences

from lowland import SAM

if __name__ == "__main__":
    torch.set_num_threads(1)
    rank, out = sys.argv[1], Path(sys.argv[2])
    for across, perturb in (
        ("global", "window"), ("global", "micro-batch"),
        ("local", "window"), ("local", "micro-batch"),
    ):  # fmt: skip
        made, seen = trainer(
            out / f"rank{rank}",
            data=sentences(20),
            perturb=perturb,
            make=functools.partial(SAM, rho=RHO, perturbation=across),
            gradient_accumulation_steps=2,
            max_grad_norm=0.5,
            ddp_backend="gloo",
        )
        made.train()
        torch.save(seen.weights, out / f"{across}-{perturb}-{rank}.pt")
    torch.distributed.destroy_process_group()
    sys.stdout.flush()
