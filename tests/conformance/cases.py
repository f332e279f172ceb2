"""The rows that PEFT's tests get in the place of PEFT's own.

`ROWS` says for each of PEFT's test modules which of its lists are replaced, and by what. A new method gets its rows
from its entry in `tests/ttnet_llm/methods.py`.
"""

from typing import Any

from tests.conformance.own_method import WITH_OWN as METHODS
from tests.ttnet_llm.methods import DEPT, Method
from ttnet_llm.linear import LinearConfig

Options = dict[str, Any]
Row = tuple[Any, ...]

# The first entry of each method in METHODS; its further ones are variants.
FIRST = list({method.config_cls: method for method in reversed(METHODS)}.values())[::-1]
VARIANTS = [method for method in METHODS if method not in FIRST]

# Where an adapter sits in PEFT's toy models: the model, options, and what the default factor on the update is
# multiplied by. PEFT's tests take three plain gradient steps at a rate of 0.5 on inputs of up to 90. With two layers
# of the MLP at once, products of many factors leave the range of float32 at that rate, and in the other direction
# little of a gradient arrives at the embedding; the rate is PEFT's, the factor is ours.
PLACES: list[tuple[str, Options, float]] = [
    ("MLP", {"target_modules": "lin0"}, 1),
    ("MLP", {"target_modules": ["lin0"]}, 1),
    ("MLP", {"target_modules": ["lin1"]}, 1),
    ("MLP", {"target_modules": ["lin0", "lin1"]}, 0.01),
    ("MLP", {"target_modules": ["lin0"], "modules_to_save": ["lin1"]}, 0.01),
    ("MLP", {"target_modules": ["lin0", "lin1"], "modules_to_save": ["lin1"]}, 0.01),
    ("EmbConv1D", {"target_modules": ["conv1d"]}, 2.5),
]
EMBEDDINGS: list[tuple[str, Options, float]] = [
    ("EmbConv1D", {"target_modules": ["emb"]}, 6),
    ("EmbConv1D", {"target_modules": ["emb", "conv1d"]}, 2.5),
]

# PEFT asks whether the first ten rows have changed the result, of a hundred, of which few neurons may be none.
FOR_EMBEDDINGS: dict[str, Options] = {"neuron_lora": {"neurons": 100}}

# Options that change what a layer computes or trains, beyond those in METHODS, for both layers of the MLP. What starts
# from a weight is as large as that, whatever the factor: one layer of it is enough for PEFT's rate.
OPTIONS: dict[str, list[Options]] = {
    "loretta_rep": [{"init_weights": "tt_svd", "target_modules": ["lin1"]}, {"rank_pattern": {"lin1": 2}}],
    "loretta_adp": [{"position": "input"}, {"rank_pattern": {"lin1": 2}}],
    "tt_lora": [{"init_weights": "tt_svd", "target_modules": ["lin1"]}, {"rank_pattern": {"lin1": 2}}],
    "lorta": [{"alpha_pattern": {"lin1": 0.5}}],
    "lotr": [{"alpha_pattern": {"lin1": 0.5}}],
    "metatt": [{"num_tasks": 3, "task": 1}],
    "melora": [{"n": 1}, {"rank_pattern": {"lin1": {"r": 1, "n": 4}}}],
    "neuron_lora": [{"neurons": 2}, {"rank_pattern": {"lin1": 2}}],
    "tt_ether": [{"r": None}, {"n": 1, "tied": True}],
    "tt_turn": [{"n": 1}],
    "ether": [{"sides": "input"}, {"sides": "output"}, {"rank_pattern": {"lin1": 2}}],
}


def scaled(method: Method, factor: float) -> Options:
    """Multiply the default factor on a method's update."""
    field = method.config_cls.scale_field
    return method.options | {field: factor * getattr(method(), field)}


def custom_rows(method: Method, places: list[tuple[str, Options, float]]) -> list[Row]:
    """Put a method in places of PEFT's toy models."""
    return [
        (
            " ".join([method.name, model, *map(str, place.values())]),
            model,
            method.config_cls,
            scaled(method, factor) | (FOR_EMBEDDINGS.get(method.method, {}) if "emb" in str(place) else {}) | place,
        )
        for model, place, factor in places
    ]


def custom_models() -> list[Row]:
    """Every method in all places that it can take and with all options, its variants in a few."""
    both_model, both, factor = PLACES[3]
    rows = []
    for method in FIRST:
        options = [*OPTIONS.get(method.method, []), {"dropout": 0.1}]
        rows += custom_rows(method, PLACES + (EMBEDDINGS if method.takes_embeddings else []))
        rows += custom_rows(method, [(both_model, both | option, factor) for option in options])
    for method in VARIANTS:
        rows += custom_rows(method, [PLACES[3], EMBEDDINGS[-1] if method.takes_embeddings else PLACES[-1]])
    return rows


def several_active() -> list[Row]:
    """Two adapters of a method at once, on the same module and on different ones."""
    return [
        (
            f"{method.name} {first} {second}",
            method.name,
            method.config_cls,
            method.options | {"target_modules": [first], "init_weights": False},
            method.options | {"target_modules": [second], "init_weights": False},
        )
        for method in METHODS
        for first, second in (("lin0", "lin0"), ("lin0", "lin1"))
    ]


def mixed_batches() -> list[Row]:
    """Two adapters of a method, of different ranks, in one batch."""
    return [
        (
            f"{method.name} mixed",
            method(target_modules=["lin0"], init_weights=False),
            method(target_modules=["lin0"], init_weights=False, **{method.config_cls.rank_field: 4}),
        )
        for method in METHODS
    ]


def language_models(task: str) -> list[Row]:
    """All methods with their default target modules, and ranks that PEFT's conversion to LoRA of rank 4 can hold."""
    return [
        (
            method.config_cls,
            ({"r": 4} if issubclass(method.config_cls, LinearConfig) else {}) | method.options | {"task_type": task},
        )
        for method in ([*METHODS] if task == "CAUSAL_LM" else [*METHODS, DEPT])
    ]


PROJECTIONS = {"target_modules": ["q_proj", "v_proj"]}
CONFIGS: list[Row] = [(method.config_cls, {}) for method in FIRST]

# By test module, without `test_`: the lists in it and what they become.
ROWS: dict[str, dict[str, Any]] = {
    "custom_models": {
        "TEST_CASES": custom_models(),
        "ALL_PEFT_CONFIG_CLASSES": [method.config_cls for method in FIRST],
        "MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES": several_active(),
        "MIXED_ADAPTER_TEST_CASES": mixed_batches(),
    },
    "config": {"ALL_CONFIG_CLASSES": [*CONFIGS, (DEPT.config_cls, {})], "LAYER_INDEXING_CONFIG_CLASSES": CONFIGS},
    "decoder_models": {"ALL_CONFIGS": language_models("CAUSAL_LM")},
    "encoder_decoder_models": {"ALL_CONFIGS": language_models("SEQ_2_SEQ_LM")},
    "feature_extraction_models": {"ALL_CONFIGS": language_models("FEATURE_EXTRACTION")},
    "seq_classifier": {"ALL_CONFIGS": language_models("SEQ_CLS")},
    "token_classification_qa": {
        "TOKEN_CLS_CONFIGS": language_models("TOKEN_CLS"),
        "QA_CONFIGS": language_models("QUESTION_ANS"),
    },
    "quantization": {
        # Updates of many times the weights, which are small at random, would make as much of rounding them.
        "TEST_CASES": [(method.config_cls, scaled(method, 0.25) | PROJECTIONS) for method in METHODS],
    },
    "torch_compile": {
        "SETTINGS": {method.name: (method(task_type="CAUSAL_LM", **PROJECTIONS), {}) for method in METHODS},
    },
}

# Which tests cannot run, as expressions for parts of their names, and why.
SKIPS = {
    r"test_from_pretrained_cache_dir\[": "downloads a checkpoint into an empty cache",
    r"layer_indexing\[(Lorta|MetaTT|TTEther|TTTurn)Config": "expects more tensors for more layers, which share theirs",
    r"test_(disable|unload)_adapter\[DeptConfig": "asks that texts change which have no placeholders",
    r"layer_indexing\[DeptConfig": "adapts single layers, and this is the table of words",
    r"test_prepare_for_training_parametrized\[DeptConfig": "asks that embeddings of words need no gradient, as they do",
    r"test_valid_task_type\[CAUSAL_LM-DeptConfig": "is for a task that is refused",
    r"fsdp_wrapped.*tt_svd": "saves an adapter with init_weights=False and loads it as 'tt_svd', which has a start",
}
NEEDS_MERGING = r"test_(mixed_adapter_batches_merged_raises|merge_unmerge_unload)\["
