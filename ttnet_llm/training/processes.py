"""The processes of a run, as `torchrun` or `accelerate launch` start them: all of them train, the first one writes."""

from __future__ import annotations

import os

from accelerate import DistributedType, PartialState
from peft import PeftModel
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from ttnet.errors import TTValueError
from ttnet_llm.training.settings import FinetuneSettings


def join(settings: FinetuneSettings, *, resume: bool = False) -> None:
    """Join the other processes, if there are any.

    Args:
        settings: Whose device decides how they speak to each other.
        resume: Whether an interrupted run is gone on with.

    Raises:
        TTValueError: If they are to share the model out in a way that is not known here.
    """
    PartialState(cpu=settings.device == "cpu")
    if "ACCELERATE_USE_DEEPSPEED" in os.environ:
        raise TTValueError(
            "The processes are to share the model out by DeepSpeed, but it is judged and saved as one model here; "
            "launch them without, for each to hold all of it, or with --use_fsdp --fsdp_version 2."
        )
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        _check_sharding(settings, resume)


def _check_sharding(settings: FinetuneSettings, resume: bool) -> None:
    if (version := os.environ.get("FSDP_VERSION", "1")) != "2":
        raise TTValueError(
            f"The processes are to share the model out by FSDP of version {version}; expected 2 (--fsdp_version 2)."
        )
    taken_back = {"early_stopping": settings.early_stopping, "resume": resume}
    for name, value in taken_back.items():
        if value:
            raise TTValueError(
                f"{name} is {value}, but weights of a checkpoint are not taken back where FSDP shares the model out; "
                "leave it out, or launch the processes without --use_fsdp."
            )
    if PartialState().distributed_type in (DistributedType.NO, DistributedType.MULTI_CPU):
        raise TTValueError(
            "The processes are to share the model out by FSDP, which accelerate does on several accelerators alone: on "
            "CPUs each would hold all of it. Launch them without --use_fsdp; on CPUs by torchrun."
        )


def make_whole(model: nn.Module) -> None:
    """Gather what processes have shared out, for the first one to save; the model is not to be used afterwards.

    Args:
        model: Of which a `PeftModel` keeps its frozen parameters shared out, as they are not saved.
    """
    modules = list(model.modules())
    for module in modules:
        if isinstance(module, FSDPModule):
            module.reshard()  # what the last forward pass has left gathered
    is_adapter = any(isinstance(module, PeftModel) for module in modules)
    for module in modules:
        for name, parameter in module._parameters.items():
            if isinstance(parameter, DTensor) and (parameter.requires_grad or not is_adapter):
                whole = parameter.full_tensor()  # by all of them together
                if is_first():
                    module._parameters[name] = nn.Parameter(whole, requires_grad=parameter.requires_grad)


def count() -> int:
    """Tell how many processes train together."""
    return int(PartialState().num_processes)


def is_first() -> bool:
    """Tell whether this is the process that writes."""
    return bool(PartialState().is_main_process)


def wait() -> None:
    """Wait until all of them have come here."""
    PartialState().wait_for_everyone()
