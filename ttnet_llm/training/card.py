"""The model card of what was fine-tuned."""

from __future__ import annotations

from collections.abc import Mapping

from ttnet_llm.cards import Card, is_local, shown_base
from ttnet_llm.training.details import Details
from ttnet_llm.training.kinds import find_kind
from ttnet_llm.training.methods import find_method
from ttnet_llm.training.report import size
from ttnet_llm.training.settings import FinetuneResult


def finetuned_card(result: FinetuneResult, details: Details, seeds: Mapping[str, str] | None = None) -> Card:
    """Say of a model that was fine-tuned what it is, how good, and how to use it.

    Args:
        result: The run.
        details: How the model is fed.
        seeds: What came of runs by several seeds, of which this is one.

    Returns:
        The card.
    """
    settings, parameters = result.settings, result.parameters
    method, kind = find_method(settings.method), find_kind(result.kind)
    whole = method.config is None
    base = shown_base(settings.model)
    scores = {
        f"{name.replace('_', ' ')}, before and after": f"{result.before[name]:.4f}, {value:.4f}"
        for name, value in result.after.items()
    }
    options = ", ".join(f"{key} = {value}" for key, value in settings.method_options.items())
    counts = f"{parameters.adapter:,} of the adapter, {parameters.norms:,} of norms, {parameters.head:,} of the head"
    facts = {
        "method": f"{method.title}{f' ({options})' if options else ''}",
        "trained parameters": f"{parameters.trainable:,} ({parameters.share:.3%}): {counts}",
        "size of the file": size(result.adapter_bytes),
        "trained on": f"{result.examples[0]:,} examples",
        "judged on": f"{result.examples[1]:,} examples",
        **scores,
        "seed": str(settings.seed),
        **(seeds or {}),
        **({"classes": ", ".join(result.names)} if result.names else {}),
        "tokens of an input": f"{result.max_length:,} at most",
        "learning rate, epochs, batch size": f"{result.learning_rate:g}, {settings.epochs:g}, {result.batch_size}",
        "versions": ", ".join(f"{name} {number}" for name, number in result.versions.items()),
    }
    about = f"{'A whole model' if whole else 'An adapter'}, fine-tuned with ttnet (`ttnet-torch`)."
    if not whole:
        about += f" It needs {base}, and the import of `ttnet_llm`, which makes its method known to PEFT."
    if not whole and is_local(settings.model):
        about += f' Where {base} lies elsewhere than in training, say `load(..., base="FOLDER")`.'
    return Card(
        f"{method.title} on {base}",
        about,
        settings.model,
        facts,
        _load_code("model" if whole else "adapter") + kind.example(details),
        ("ttnet", settings.method),
        "transformers" if whole else "peft",
        kind.pipeline,
    )


def _load_code(kind: str) -> str:
    return f'import ttnet_llm\n\nmodel, tokenizer = ttnet_llm.load(".")  # the folder or hub id of this {kind}\n'
