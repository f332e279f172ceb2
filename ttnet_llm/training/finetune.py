"""One call from settings to a fine-tuned model with its report."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from transformers import TrainerCallback

from ttnet.errors import TTValueError
from ttnet_llm.folders import output_folder, replace_folder
from ttnet_llm.training.methods import make_config
from ttnet_llm.training.processes import is_first, join, wait
from ttnet_llm.training.run import carry_out, clear, method_options, prepare
from ttnet_llm.training.run_folder import KIND, open_folders
from ttnet_llm.training.settings import FinetuneResult, FinetuneSettings


def finetune(
    settings: FinetuneSettings,
    *,
    resume: bool = False,
    overwrite: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
) -> FinetuneResult:
    """Fine-tune a model, and write the adapter, its reports, `results.json` and `settings.yaml`.

    The work is done in a folder `OUTPUT.partial`, which takes the place of `OUTPUT` once all of it is done: an
    interrupted run leaves what was there as it was, and can be resumed.

    Args:
        settings: What to do.
        resume: Go on with an interrupted run from its last checkpoint.
        overwrite: Replace a finished run, or start an interrupted one again. Nothing but a run is ever replaced.
        callbacks: For the trainer, such as `RichProgress`.

    Returns:
        The result.

    Raises:
        TTFileError: If something in the output folder would be lost, there is nothing to resume, or a file cannot be
            read.
        TTValueError: If a setting, column or label is wrong.

    Example:
        >>> settings = FinetuneSettings(model="encoder", train="reviews.jsonl", output="run", epochs=1)
        >>> result = finetune(settings)
        >>> result.kind, result.names, result.examples
        ('classify', ('bad', 'good'), (21, 3))
    """
    if settings.seeds:
        raise TTValueError(f"seeds is {settings.seeds}, but this trains once; call finetune_seeds, or leave it out.")
    make_config(settings.method, method_options(settings))  # before anything else, as it is quick
    join(settings, resume=resume)
    output, partial = open_folders(settings, resume=resume, overwrite=overwrite)
    training = prepare(settings)
    wait()  # until no process looks at the folders any more
    if overwrite and is_first() and partial.exists():
        shutil.rmtree(partial)
    result = carry_out(training, partial, resume=resume, callbacks=callbacks)
    if is_first():
        output_folder(output, kind=KIND if resume or overwrite else None)  # as something may have come there meanwhile
        clear(partial)
        replace_folder(partial, output)
    wait()
    return result
