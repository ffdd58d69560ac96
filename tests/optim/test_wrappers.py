"""The engine through Fabric's and Accelerate's wrappers, and two processes of DDP."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import data, equal, losses, network, weights
from torch import Tensor

from lowland.optim import FSAM, MSAM, SAM

SETTINGS: dict[str, Any] = {"rho": 0.3, "lr": 0.1, "momentum": 0.9}


def plain_loop(steps: int = 4) -> list[Tensor]:
    model = network(3)
    opt = SAM(model.parameters(), torch.optim.SGD, model=model, **SETTINGS)
    for i in range(steps):
        opt.step(loss_fn=losses(model), batch=data(i))
    return weights(model)


@pytest.mark.parametrize("form", ["closure", "context", "two-step"])
def test_fabric(form: str) -> None:
    fabric_module = pytest.importorskip("lightning_fabric")
    fabric = fabric_module.Fabric(accelerator="cpu", devices=1)
    inner = network(3)
    opt = SAM(inner.parameters(), torch.optim.SGD, model=inner, **SETTINGS)
    model, wrapped = fabric.setup(inner, opt)

    for i in range(4):
        x, y = data(i)

        def backward(x: Tensor = x, y: Tensor = y) -> Tensor:
            loss = losses(model)(x, y).mean()
            fabric.backward(loss)
            return loss

        if form == "closure":

            def closure() -> Tensor:
                wrapped.zero_grad()
                return backward()

            assert torch.is_tensor(wrapped.step(closure))
        else:
            wrapped.zero_grad()
            backward()
            if form == "context":
                with wrapped.perturbed():
                    backward()
                wrapped.step()
            else:
                wrapped.first_step(zero_grad=True)
                backward()
                wrapped.second_step(zero_grad=True)
    assert equal(weights(inner), plain_loop())
    assert wrapped.last is opt.last
    wrapped.load_state_dict(wrapped.state_dict())
    assert wrapped.state is opt.base_optimizer.state
    assert wrapped.param_groups is opt.base_optimizer.param_groups


def test_fabric_with_a_method_that_needs_the_batch() -> None:
    fabric_module = pytest.importorskip("lightning_fabric")
    fabric = fabric_module.Fabric(accelerator="cpu", devices=1)
    inner, twin = network(3), network(3)
    opt = MSAM(inner.parameters(), torch.optim.SGD, m=5, model=inner, **SETTINGS)
    bare = MSAM(twin.parameters(), torch.optim.SGD, m=5, model=twin, **SETTINGS)
    model, wrapped = fabric.setup(inner, opt)
    for i in range(3):
        wrapped.optimizer.step(loss_fn=losses(model), batch=data(i), backward=fabric.backward)
        bare.step(loss_fn=losses(twin), batch=data(i))
    assert equal(weights(inner), weights(twin))


@pytest.mark.parametrize("form", ["closure", "context"])
def test_accelerate(form: str) -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    inner = network(3)
    opt = SAM(inner.parameters(), torch.optim.SGD, model=inner, **SETTINGS)
    model, wrapped = accelerator.prepare(inner, opt)
    assert wrapped.optimizer is opt
    for i in range(4):
        x, y = data(i)

        def backward(x: Tensor = x, y: Tensor = y) -> Tensor:
            loss = losses(model)(x, y).mean()
            accelerator.backward(loss)
            return loss

        if form == "closure":

            def closure() -> Tensor:
                wrapped.zero_grad()
                return backward()

            wrapped.step(closure)
        else:
            wrapped.zero_grad()
            backward()
            with wrapped.optimizer.perturbed():
                backward()
            wrapped.step()
    assert equal(weights(inner), plain_loop())
    state = wrapped.state_dict()
    assert state["param_groups"][0]["rho"] == 0.3
    wrapped.load_state_dict(state)
    assert opt.state is opt.base_optimizer.state


DDP = """
import os
import sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from problems import data, losses, network, weights
from lowland.optim import FSAM, SAM

torch.set_num_threads(1)
rank, out = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=sys.argv[3], rank=rank, world_size=2)
for kind in (SAM, FSAM):
    model = network(3, torch.float64, norm=False)
    parallel = DistributedDataParallel(model, gradient_as_bucket_view=True)
    opt = kind(model.parameters(), torch.optim.SGD, rho=0.3, lr=0.1, momentum=0.9, model=parallel)
    for i in range(4):
        x, y = data(i, dtype=torch.float64)
        half = slice(6 * rank, 6 * rank + 6)

        def closure():
            opt.zero_grad()
            loss = losses(parallel)(x[half], y[half]).mean()
            loss.backward()
            return loss

        opt.step(closure)
    torch.save(weights(model), f"{out}/{kind.__name__}-{rank}.pt")
    del parallel
dist.barrier()
dist.destroy_process_group()
sys.stdout.flush()
os._exit(0)  # gloo's threads may abort an ordinary exit on a busy machine
"""


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def test_two_processes_equal_one_with_the_whole_batch(tmp_path: Path) -> None:
    """DDP reduces the gradient in both passes: ε comes from the whole batch, on every rank."""
    script = tmp_path / "ddp.py"
    script.write_text(DDP)
    here = Path(__file__).parent
    paths = [str(here), str(here.parents[1] / "src"), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    url = f"tcp://127.0.0.1:{_free_port()}"
    command = [sys.executable, str(script)]
    workers = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path), url],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    outputs = [worker.communicate(timeout=120)[0] for worker in workers]
    assert all(worker.returncode == 0 for worker in workers), outputs
    for kind in (SAM, FSAM):
        model = network(3, torch.float64, norm=False)
        opt = kind(model.parameters(), torch.optim.SGD, **SETTINGS)
        for i in range(4):
            opt.step(loss_fn=losses(model), batch=data(i, dtype=torch.float64))
        ranks = [torch.load(tmp_path / f"{kind.__name__}-{r}.pt") for r in (0, 1)]
        assert equal(*ranks), "replicas stay the same bit for bit"
        for a, b in zip(ranks[0], weights(model), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)
