"""The command, in processes on CPUs that accelerate takes for ones with accelerators, as it shards models there alone.

Run by `test_processes.py` as a launcher would run the command.
"""

from typing import Any

from accelerate import DistributedType, PartialState
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from ttnet_llm.command_line.cli import main
from ttnet_llm.training import run

begin, gather = PartialState.__init__, run.make_whole


def begin_as_on_accelerators(self: PartialState, *args: Any, **kwargs: Any) -> None:
    """Begin on CPUs, and say otherwise."""
    begin(self, *args, **kwargs)
    self.distributed_type = DistributedType.MULTI_GPU


def look_and_gather(model: nn.Module) -> None:
    """Gather a model whose layers are shared out."""
    layers = [module for module in model.modules() if isinstance(module, FSDPModule) and module is not model]
    assert layers
    assert all(isinstance(parameter, DTensor) for layer in layers for parameter in layer.parameters())
    gather(model)


if __name__ == "__main__":
    PartialState.__init__ = begin_as_on_accelerators  # type: ignore[method-assign]
    run.make_whole = look_and_gather
    main()
