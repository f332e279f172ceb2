"""A progress bar for the transformers `Trainer`, drawn by rich."""

from __future__ import annotations

import warnings
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ttnet.errors import import_extra


def quiet_libraries() -> None:
    """Silence what transformers and datasets say while loading, for programs with a display of their own."""
    import datasets
    from transformers.utils import logging

    datasets.disable_progress_bars()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # PEFT and transformers disagree on a name that neither concerns the user nor changes a result.
    warnings.filterwarnings("ignore", category=FutureWarning, message=".*gradient_checkpointing")


class RichProgress(TrainerCallback):
    """Shows steps, loss, the last score by the first measure, and the time left on one line.

    Args:
        title: What the line begins with.
        console: A rich console; `None` makes one.
    """

    def __init__(self, title: str, console: Any = None) -> None:
        progress = import_extra("rich.progress", extra="cli")
        self._bar = progress.Progress(
            progress.TextColumn("[bold]{task.description:<14}"),
            progress.BarColumn(bar_width=28),
            progress.MofNCompleteColumn(),
            progress.TextColumn(
                "loss [cyan]{task.fields[loss]}[/]  {task.fields[measure]} [green]{task.fields[score]}[/]"
            ),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(),
            console=console,
        )
        self._line = self._bar.add_task(title, total=None, loss="  -  ", score="  -  ", measure="score")

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Draw the bar, from where a resumed run goes on."""
        self._bar.start()
        self._bar.update(self._line, total=state.max_steps, completed=state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Advance."""
        self._bar.update(self._line, completed=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the latest loss and score."""
        logs = logs or {}
        if "loss" in logs:
            self._bar.update(self._line, loss=f"{float(logs['loss']):.3f}")
        measure = next((key.removeprefix("eval_") for key in logs if key.startswith("eval_")), None)
        if measure is not None:
            self._bar.update(self._line, measure=measure, score=f"{logs[f'eval_{measure}']:.3f}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the finished bar on the screen."""
        self.close()

    def close(self) -> None:
        """Give the terminal back, also after an interruption."""
        self._bar.stop()
