"""What the demo shows: answers side by side, a table of methods, and what became of the saved adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from ttnet_llm.files import write_text
from ttnet_llm.training import METHODS, FinetuneResult
from ttnet_llm.training.report import markdown_table, seconds, size

HEADER = ["method", "parameters", "on disk", "loss before", "after", "foretold", "per step"]


@dataclass(frozen=True)
class Answers:
    """What a model says to questions, before and after.

    Args:
        questions: The questions, which are in none of the chats.
        before: What the untouched model says.
        after: What it says with the adapter.
    """

    questions: Sequence[str]
    before: Sequence[str]
    after: Sequence[str]

    def rows(self) -> list[tuple[str, str, str]]:
        """Give questions with their answers."""
        return list(zip(self.questions, self.before, self.after, strict=True))


@dataclass(frozen=True)
class Checks:
    """What was found when the adapter was used again.

    Args:
        reloaded: The largest difference of held-out losses after loading it in a fresh process.
        lora_rank: The rank of the LoRA that it was exported to.
        lora_bytes: The bytes of that.
        same_answers: How many answers plain PEFT gives word for word with that LoRA.
        asked: Of how many.
    """

    reloaded: float
    lora_rank: int
    lora_bytes: int
    same_answers: int
    asked: int

    def sentences(self) -> list[str]:
        """Say it."""
        apart = "are identical, bit for bit" if self.reloaded == 0 else f"are up to {self.reloaded:.1e} apart"
        return [
            f"Loaded from disk in a fresh process, the losses of the held-out answers {apart}.",
            f"Exported to LoRA of rank {self.lora_rank} ({size(self.lora_bytes)}), which PEFT alone loads: "
            f"{self.same_answers} of {self.asked} answers are the same, word for word.",
        ]


def row(result: FinetuneResult) -> list[str]:
    """Put a run into cells under `HEADER`."""
    rank = result.settings.method_options.get("r")
    return [
        METHODS[result.settings.method].title + (f" r={rank}" if rank else ""),
        f"{result.parameters.trainable:,}",
        size(result.adapter_bytes),
        f"{result.before['loss']:.3f}",
        f"{result.after['loss']:.3f}",
        f"{result.after['token_accuracy']:.1%}",
        seconds(result.seconds_per_step),
    ]


def methods_table(results: Sequence[FinetuneResult]) -> Table:
    """Make the table of methods for the terminal."""
    table = Table(box=SIMPLE, title="Held-out answers", title_justify="left")
    for k, name in enumerate(HEADER):
        table.add_column(name, justify="right" if k else "left", style="bold" if name == "after" else None)
    for result in results:
        table.add_row(*row(result))
    return table


def answers_table(answers: Answers) -> Table:
    """Put the answers side by side for the terminal."""
    table = Table(box=SIMPLE, show_lines=True)
    table.add_column("asked", style="dim", ratio=2)
    table.add_column("before", ratio=4)
    table.add_column("after", ratio=4, style="green")
    for cells in answers.rows():
        table.add_row(*map(escape, cells))
    return table


def write_report(results: Sequence[FinetuneResult], answers: Answers, checks: Checks, folder: Path) -> None:
    """Write `report.md`.

    Args:
        results: The runs, that of the adapter first.
        answers: What it says.
        checks: What became of it.
        folder: Where to write.
    """
    first = results[0]
    said = "\n\n".join(
        f"**{question}**\n\n{markdown_table(['', 'answer'], [['before', _cell(before)], ['after', _cell(after)]])}"
        for question, before, after in answers.rows()
    )
    rates = ", ".join(f"{row(result)[0]} {result.learning_rate:g}" for result in results)
    text = f"""# A chat model learns to speak as a pirate

SmolLM2-135M-Instruct, frozen, and adapters that learn from {first.examples[0]} short chats; {first.examples[1]} others
are held out. Every method sees the same chats in the same order, {first.settings.epochs:g} times, in batches of
{first.batch_size}, seed {first.settings.seed}.

{markdown_table(HEADER, [row(result) for result in results])}

The loss is the mean over the tokens of the held-out answers, `foretold` the share of those tokens that the model holds
for the likeliest, a step's time the median, on {first.threads} CPU threads. Learning rates: {rates}.

## {row(first)[0]}, {first.parameters.trainable:,} parameters

{chr(10).join(f"- {sentence}" for sentence in checks.sentences())}

{said}

Versions: {", ".join(f"{name} {number}" for name, number in first.versions.items())}.
"""
    write_text(folder / "report.md", text)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
