"""Adapters of PEFT's own tuner, one for each row of a batch (`adapter_names`): this package's methods beside LoRA.

    python -m benchmarks.mixed

Ratios are of medians of interleaved rounds in one process, in processor time of all its threads. Writes
benchmarks/results/mixed.md.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import torch
import transformers as tf
import typer
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from benchmarks import run_on
from benchmarks.bank import MODELS, ROOT, ROWS, TOKENS, console, forward, ratios, said
from ttnet_llm import EtherConfig, LorettaAdpConfig, LorettaRepConfig, MetaTTConfig, TTEtherConfig, TTLoraConfig
from ttnet_llm.files import write_text
from ttnet_llm.training.report import markdown_table

RESULTS = ROOT / "benchmarks" / "results" / "mixed.md"
METHODS: dict[str, Callable[..., Any]] = {
    "PEFT's LoRA r=8": partial(LoraConfig, r=8),
    "PEFT's LoRA r=1": partial(LoraConfig, r=1),
    **{
        config.__name__.removesuffix("Config"): partial(config, init_weights=False)
        for config in (LorettaRepConfig, LorettaAdpConfig, TTLoraConfig, MetaTTConfig, EtherConfig, TTEtherConfig)
    },
    "Ether, plus=False": partial(EtherConfig, plus=False, init_weights=False),
}
# On all that reads the residual stream, as TT-ETHER is by default.
ON_READERS = {f"{method}, on readers": METHODS[method] for method in ("PEFT's LoRA r=8", "TTEther")}


def added(model: nn.Module, config: Any) -> tuple[Any, list[str], float, float]:
    """A model with an adapter for each row, their names, and the seconds that all but the first and the last took."""
    names, times = [f"user-{k}" for k in range(ROWS)], []
    peft = get_peft_model(model, copy.deepcopy(config), adapter_name=names[0])
    for name in names[1:]:
        began = time.process_time()
        peft.add_adapter(name, copy.deepcopy(config))
        times.append(time.process_time() - began)
    return peft.eval(), names, sum(times), statistics.median(times[-8:])


def loading(peft: Any, name: str) -> float:
    """The seconds of loading one adapter more from the disk."""
    times = []
    with tempfile.TemporaryDirectory() as folder:
        peft.save_pretrained(folder, selected_adapters=[name])
        for k in range(5):
            began = time.process_time()
            peft.load_adapter(f"{folder}/{name}", f"loaded-{k}")
            times.append(time.process_time() - began)
            peft.delete_adapter(f"loaded-{k}")
    return statistics.median(times)


def generation(model: Any, ids: Tensor, **options: Any) -> Callable[[], None]:
    """Eight tokens for each row."""

    def call() -> None:
        model.generate(
            input_ids=ids[:, :8], max_new_tokens=8, do_sample=False, pad_token_id=0, eos_token_id=None, **options
        )

    return call


def measure(title: str, make: Callable[[], nn.Module], rounds: int) -> list[list[str]]:
    base = make()
    causal = isinstance(base, tf.LlamaForCausalLM)
    targets = ["q_proj", "v_proj"] if causal else ["query", "value"]
    readers = ["k_proj", "gate_proj", "up_proj"] if causal else ["key", "intermediate.dense"]
    models = {method: added(make(), config(target_modules=targets)) for method, config in METHODS.items()}
    models |= {method: added(make(), config(target_modules=targets + readers)) for method, config in ON_READERS.items()}
    cells = {method: [f"{total:.2f}", f"{last * 1e3:.0f}"] for method, (_, _, total, last) in models.items()}
    ids = torch.randint(1000, base.config.vocab_size, (ROWS, TOKENS))  # type: ignore[union-attr]
    calls = {"base": forward(base, ids)}
    for method, (peft, names, *_) in models.items():
        calls[method] = forward(peft, ids, adapter_names=names)
        calls[f"{method}, one"] = forward(peft, ids)
    found = ratios(calls, rounds)
    writes = {"base": generation(base, ids)}
    if causal:
        writes |= {method: generation(peft, ids, adapter_names=names) for method, (peft, names, *_) in models.items()}
    texts = ratios(writes, rounds) if len(writes) > 1 else {}
    rows = []
    for method, (peft, names, *_) in models.items():
        cells[method].append(f"{loading(peft, names[3]) * 1e3:.0f}")
        cells[method] += [said(found[f"{method}, one"]), said(found[method])]
        cells[method].append(said(texts[method]) if texts else "")
        rows.append([title, method, *cells[method]])
        console.print(rows[-1])
    return rows


def main(
    threads: Annotated[str, typer.Option(help="Numbers of threads, with commas.")] = "1,2",
    rounds: Annotated[int, typer.Option(help="Of every measurement.")] = 9,
) -> None:
    """Measure, and write the report."""
    tf.logging.set_verbosity_error()
    tf.logging.disable_progress_bar()
    heads = ["model", "method", "adding 63 more, s", "the last, ms", "loading one, ms"]
    heads += ["one adapter for 64 rows", "an adapter for each row", "generating 8 tokens, the same"]
    tables = []
    for count in map(int, threads.split(",")):
        torch.set_num_threads(count)
        rows = [row for title, make in MODELS.items() for row in measure(title, make, rounds)]
        tables.append(f"## {count} thread(s)\n\n{markdown_table(heads, rows)}\n")
    write_text(
        RESULTS,
        f"""# Mixed batches of PEFT's tuner

{ROWS} adapters on query and value in one `PeftModel`, each method with its defaults: processor time of adding and of
loading them, and of a forward pass of {ROWS} rows x {TOKENS} tokens, and of generating, to the base model's: medians of
{rounds} interleaved rounds with their quartiles, on a machine with other work. The matrices are formed anew in every
forward pass, and once for each generation. "On readers" is on all that reads the residual stream, as TT-ETHER is by
default.

{chr(10).join(tables)}
torch {torch.__version__}, transformers {tf.__version__}, seed 0, {run_on()}. Repeat:
`python -m benchmarks.mixed --threads {threads} --rounds {rounds}`
""",
    )


if __name__ == "__main__":
    typer.run(main)
