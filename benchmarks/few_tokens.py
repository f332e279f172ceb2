"""Few tokens a row in a bank that keeps no matrices: core by core, and by factors that are formed anew.

    python -m benchmarks.few_tokens

Ratios are of medians of interleaved rounds in one process, in processor time of all its threads. Writes
benchmarks/results/few_tokens.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any
from unittest.mock import patch

import torch
import transformers as tf
import typer

from benchmarks import run_on
from benchmarks.bank import ROOT, ROWS, console, forward, llama, ratios, said, within
from ttnet_llm import LorettaRepConfig, TTLoraConfig
from ttnet_llm.bank import AdapterBank
from ttnet_llm.bank.forms import LinearForm
from ttnet_llm.files import write_text
from ttnet_llm.training.report import markdown_table

RESULTS = ROOT / "benchmarks" / "results" / "few_tokens.md"
TOKENS = (1, 2, 4, 8, 16, 32)
METHODS: dict[str, Any] = {
    "LoRETTA_rep, r=8, TT rank 5": LorettaRepConfig(init_weights=False),
    "TT-LoRA, rank 5": TTLoraConfig(init_weights=False),
    "TT-LoRA, rank 16": TTLoraConfig(tt_rank=16, init_weights=False),
}


def by(takes_cores: bool, call: Callable[[], None]) -> Callable[[], None]:
    """A call in which all modules go one of the two ways."""

    def called() -> None:
        with patch.object(LinearForm, "takes_cores", lambda form, tokens: takes_cores):
            call()

    return called


def measure(method: str, config: Any, rounds: int) -> list[list[str]]:
    base, rows = llama(), []
    bank = AdapterBank(llama(), config, keep_bytes=0)
    names = [f"user-{k}" for k in range(ROWS)]
    for name in names:
        bank.add(name)
    form = next(iter(bank._pattern.forms.values()))
    for tokens in TOKENS:
        ids = torch.randint(1000, base.config.vocab_size, (ROWS, tokens))  # type: ignore[union-attr]
        call = within(bank, names, forward(bank.model, ids), warm=True)
        found = ratios({"base": forward(base, ids), "cores": by(True, call), "factors": by(False, call)}, rounds)
        way = "cores" if form.takes_cores(tokens) else "factors"
        rows.append([method, str(tokens), said(found["cores"]), said(found["factors"]), way])
        console.print(rows[-1])
    return rows


def main(
    threads: Annotated[str, typer.Option(help="Numbers of threads, with commas.")] = "1,2",
    rounds: Annotated[int, typer.Option(help="Of every measurement.")] = 9,
) -> None:
    """Measure, and write the report."""
    tf.logging.set_verbosity_error()
    heads = ["method", "tokens a row", "core by core", "by factors", "taken"]
    tables = []
    for count in map(int, threads.split(",")):
        torch.set_num_threads(count)
        rows = [row for method, config in METHODS.items() for row in measure(method, config, rounds)]
        tables.append(f"## {count} thread(s)\n\n{markdown_table(heads, rows)}\n")
    write_text(
        RESULTS,
        f"""# Few tokens of many adapters

A forward pass of a Llama of 6 layers x 768 with {ROWS} rows of different adapters on query and value, in an
`AdapterBank` that keeps no matrices, to the base model's: medians of {rounds} interleaved rounds with their quartiles,
on a machine with other work; and the way that the bank takes (docs/speed.md).

{chr(10).join(tables)}
torch {torch.__version__}, transformers {tf.__version__}, seed 0, {run_on()}. Repeat:
`python -m benchmarks.few_tokens --threads {threads} --rounds {rounds}`
""",
    )


if __name__ == "__main__":
    typer.run(main)
