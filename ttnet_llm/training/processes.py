"""The processes of a run, as `torchrun` or `accelerate launch` start them: all of them train, the first one writes."""

from __future__ import annotations

import os

from accelerate import PartialState

from ttnet.errors import TTValueError
from ttnet_llm.training.settings import FinetuneSettings


def join(settings: FinetuneSettings) -> None:
    """Join the other processes, if there are any.

    Args:
        settings: Whose device decides how they speak to each other.

    Raises:
        TTValueError: If they are to share the model out.
    """
    PartialState(cpu=settings.device == "cpu")
    sharded = os.environ.get("ACCELERATE_USE_FSDP", "false") == "true" or "ACCELERATE_USE_DEEPSPEED" in os.environ
    if sharded:
        raise TTValueError(
            "The processes are to share the model out among them (FSDP or DeepSpeed), but it is judged and saved as a "
            "whole here; launch them without, for each to hold all of it."
        )


def count() -> int:
    """Tell how many processes train together."""
    return int(PartialState().num_processes)


def is_first() -> bool:
    """Tell whether this is the process that writes."""
    return bool(PartialState().is_main_process)


def wait() -> None:
    """Wait until all of them have come here."""
    PartialState().wait_for_everyone()
