"""One optimiser step by two processes, of every method, with DDP and with FSDP2; run by `test_distributed.py`.

Run as `python -m tests.ttnet_llm.two_processes FOLDER`: writes for every method and way the trained parameters
after the step to FOLDER. The two are forked from one, which has imported everything.
"""

import os
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from accelerate import Accelerator
from peft import get_peft_model
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from tests.ttnet_llm import models
from tests.ttnet_llm.methods import METHODS, Method
from tests.ttnet_llm.models import perturb
from ttnet_llm import LorettaRepConfig, TTLoraConfig

RATE = 0.1
IDS = torch.randint(64, (4, 6), generator=torch.Generator().manual_seed(0))


EXPERTS = {"tt_rank": 3, "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]}
STEPPED = [
    *METHODS,
    Method("loretta_rep on experts", LorettaRepConfig, EXPERTS),
    Method("tt_lora on experts", TTLoraConfig, EXPERTS),
]


def make(method: Method) -> nn.Module:
    base = models.mixtral() if "target_parameters" in method.options else models.llama()
    return perturb(get_peft_model(base, method()), spread=0.1).train()


def step(model: nn.Module, ids: torch.Tensor) -> None:
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=RATE)
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()


def trained(model: nn.Module) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix("module."): (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone()
        for name, p in model.named_parameters()
        if p.requires_grad
    }


def shard(model: nn.Module) -> nn.Module:
    mesh = init_device_mesh("cpu", (2,))
    for layer in model.get_base_model().model.layers:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def main(rank: int, folder: str) -> None:
    world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}  # as launchers say it
    os.environ |= {name: str(value) for name, value in world.items()}
    rendezvous = f"file://{folder}/rendezvous-{os.getppid()}"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    ways = {"ddp": Accelerator(cpu=True).prepare_model, "fsdp2": shard}
    for way, prepare in ways.items():
        for method in STEPPED:
            model = prepare(make(method))
            step(model, IDS[2 * rank : 2 * rank + 2])
            result = trained(model)
            if rank == 0:
                torch.save(result, f"{folder}/{way}-{method.name}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.start_processes(main, (sys.argv[1],), nprocs=2, start_method="fork")
