"""Where a model has its attention heads and feed-forward neurons: which layers write them, and which read them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ttnet.errors import TTTypeError
from ttnet_llm.entries import method_in

Kind = Literal["heads", "neurons"]
HEADS: Final = "heads"
NEURONS: Final = "neurons"


@dataclass(frozen=True)
class Axis:
    """Heads or neurons of a model that are counted together, and everything that has to be cut when one of them goes.

    Args:
        name: Of the first layer that reads them, as the model without its head calls it.
        kind: What they are.
        writers: The layers whose outputs they are, and parameters along them, by name; with each, how many times all of
            them stand in it one after the other, as queries, keys and values do in a fused layer.
        readers: The layers whose inputs they are: one, or one of each layer of the model.
        sizes: The attributes of the model that count them or their features.
        groups: How many there are; of heads that share their keys and values, how many groups of these.
        parameters: How many parameters go with one of them.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=6)
        >>> neurons = axes(BertModel(config))[1]
        >>> neurons.groups, neurons.readers, neurons.writers
        (6, ('encoder.layer.0.output.dense',), (('encoder.layer.0.intermediate.dense', 1),))
    """

    name: str
    kind: Kind
    writers: tuple[tuple[str, int], ...]
    readers: tuple[str, ...]
    sizes: tuple[str, ...]
    groups: int
    parameters: int


@dataclass(frozen=True)
class _Part:
    """An axis as a block of an architecture has it, by names within the block; what a block has not is passed over."""

    kind: Kind
    reader: str
    writers: tuple[str, ...]
    sizes: tuple[str, ...] = ()
    repeats: int = 1
    joint: bool = False  # over all blocks of a stack
    refused: tuple[str, ...] = ()


def _within(module: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{module}.{name}" for name in names)


_BERT = (
    _Part(
        HEADS,
        "attention.output.dense",
        _within("attention.self", "query", "key", "value"),
        _within("attention.self", "num_attention_heads", "all_head_size"),
    ),
    _Part(NEURONS, "output.dense", ("intermediate.dense",)),
)
_DEBERTA = (
    _Part(
        HEADS,
        "attention.output.dense",
        _within(
            "attention.self",
            *("in_proj", "q_bias", "v_bias", "pos_proj", "pos_q_proj"),  # of each head its query, key and value
            *("query_proj", "key_proj", "value_proj", "pos_key_proj", "pos_query_proj"),
        ),
        _within("attention.self", "num_attention_heads", "all_head_size"),
        refused=_within("attention.self", "head_logits_proj", "head_weights_proj"),  # which mix the heads
    ),
    _BERT[1],
)
_LLAMA = (
    _Part(HEADS, "self_attn.o_proj", _within("self_attn", "q_proj", "k_proj", "v_proj")),
    _Part(NEURONS, "mlp.down_proj", _within("mlp", "gate_proj", "up_proj"), ("mlp.intermediate_size",)),
)
_GPT2 = (
    _Part(HEADS, "attn.c_proj", ("attn.c_attn",), _within("attn", "num_heads", "split_size"), repeats=3),
    _Part(NEURONS, "mlp.c_proj", ("mlp.c_fc",)),
)
_OPT = (
    _Part(
        HEADS,
        "self_attn.out_proj",
        _within("self_attn", "q_proj", "k_proj", "v_proj"),
        _within("self_attn", "num_heads"),
    ),
    _Part(NEURONS, "fc2", ("fc1",)),
)
# T5's layers hand the position biases of their heads on, from the first of a stack to the last.
_T5 = (
    *(
        _Part(
            HEADS,
            f"{attention}.o",
            _within(attention, "q", "k", "v", "relative_attention_bias"),
            _within(attention, "n_heads", "inner_dim"),
            joint=True,
        )
        for attention in ("layer.0.SelfAttention", "layer.1.EncDecAttention")
    ),
    *(
        _Part(NEURONS, f"{layer}.DenseReluDense.wo", _within(f"{layer}.DenseReluDense", "wi", "wi_0", "wi_1"))
        for layer in ("layer.1", "layer.2")
    ),
)
# By the model types of configs: where the blocks are, and what is in each.
ARCHITECTURES: dict[str, tuple[tuple[str, ...], tuple[_Part, ...]]] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "electra"), (("encoder.layer",), _BERT)),
    **dict.fromkeys(("deberta", "deberta-v2"), (("encoder.layer",), _DEBERTA)),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), (("layers",), _LLAMA)),
    "gpt2": (("h",), _GPT2),
    "opt": (("decoder.layers",), _OPT),
    **dict.fromkeys(("t5", "mt5"), (("encoder.block", "decoder.block"), _T5)),
}


def axes(model: nn.Module) -> list[Axis]:
    """List the attention heads and feed-forward neurons that can be cut out of a model.

    Args:
        model: A transformers model, with or without a head and adapters.

    Returns:
        An axis for every block's heads and one for its neurons, in the model's order; for T5 one for the heads of all
        blocks of a stack, which share their position biases. Heads that share keys and values count as one.

    Raises:
        TTTypeError: If the architecture is not known, or the model is quantised, has trains or is cut already.

    Source:
        Gu et al., Light-PEFT (arXiv:2406.03792), section 3.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=6)
        >>> heads, neurons = axes(BertModel(config))
        >>> heads.name, heads.groups, heads.parameters
        ('encoder.layer.0.attention.output.dense', 2, 140)
        >>> neurons.name, neurons.groups, neurons.parameters
        ('encoder.layer.0.output.dense', 6, 17)
    """
    config = find_core(model).config
    if getattr(config, "quantization_config", None) is not None:
        method = method_in(config)
        said = {"ttnet": "has trains", "ttnet-slim": "is cut already"}
        what = said.get(str(method), f"is quantised ({getattr(method, 'value', method)})")
        raise TTTypeError(
            f"model {what}; heads and neurons are cut out of dense models with all their weights: load the one that it "
            "was made of."
        )
    return find_axes(model)


def find_axes(model: nn.Module) -> list[Axis]:
    """List what `axes` lists, whatever the model's config says of its weights.

    Args:
        model: A model that is not cut yet.

    Returns:
        The axes.

    Raises:
        TTTypeError: If the architecture is not known, or a layer is of a kind that cannot be cut.
    """
    core = find_core(model)
    base, config = core.base_model, core.config
    if config.model_type not in ARCHITECTURES:
        raise TTTypeError(
            f"model is of the type {config.model_type!r}, of which it is not known what writes and reads its heads; "
            f"expected one of {', '.join(ARCHITECTURES)}."
        )
    stacks, parts = ARCHITECTURES[config.model_type]
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    found: list[Axis] = []
    for stack in stacks:
        blocks = [f"{stack}.{k}" for k in range(len(find(base, stack) or ()))]
        for part in (part for part in parts if part.joint):
            found.extend(_axis(base, [b for b in blocks if find(base, f"{b}.{part.reader}")], part, heads))
        for block in blocks:
            for part in (part for part in parts if not part.joint and find(base, f"{block}.{part.reader}")):
                found.extend(_axis(base, [block], part, heads))
    if not found:
        raise TTTypeError(
            f"model is a {type(core).__name__}, which has nothing in {' or '.join(stacks)}; expected a whole model of "
            f"the type {config.model_type!r}."
        )
    return found


def _axis(base: nn.Module, blocks: list[str], part: _Part, heads: int) -> Iterator[Axis]:
    if not blocks:
        return
    for name in (f"{block}.{refused}" for block in blocks for refused in part.refused):
        if find(base, name) is not None:
            raise TTTypeError(f"model has {name!r}, which mixes its heads, so that none can be cut out.")
    names = [f"{block}.{writer}" for block in blocks for writer in part.writers]
    writers = [name for name in names if find(base, name) is not None]
    readers = [f"{block}.{part.reader}" for block in blocks]
    shapes = [shape_of(find(base, name), name) for name in readers]
    groups = heads if part.kind == HEADS else shapes[0][0]
    size = sum(rows * columns for rows, columns in shapes)
    for name in writers:
        rows, columns = shape_of(find(base, name), name)
        size += (rows + (getattr(plain_layer(find(base, name)), "bias", None) is not None)) * columns
    sizes = tuple(f"{block}.{attribute}" for block in blocks for attribute in part.sizes)
    repeats = tuple((name, part.repeats) for name in writers)
    yield Axis(readers[0], part.kind, repeats, tuple(readers), sizes, groups, size // groups)


def shape_of(found: Any, name: str) -> tuple[int, int]:
    """Tell how many inputs and outputs a layer has.

    Args:
        found: A linear layer or a table, perhaps with adapters around it, or a parameter of one dimension.
        name: Its name, for messages.

    Returns:
        Both numbers.

    Raises:
        TTTypeError: If it is of another kind, or quantised.
    """
    layer = plain_layer(found)
    if isinstance(layer, Tensor) and layer.ndim == 1:
        return 1, len(layer)
    weight: Any = getattr(layer, "weight", None)
    plain = type(layer) in (nn.Linear, Conv1D, nn.Embedding) and isinstance(weight, Tensor)
    if not plain or type(weight.detach()) is not Tensor or not weight.is_floating_point():
        raise TTTypeError(
            f"model has a {type(layer).__name__} for {name!r}, which cannot be cut; expected a dense layer with all "
            "its weights: load the model unquantised, and without trains."
        )
    rows, columns = weight.shape
    return (columns, rows) if isinstance(layer, nn.Linear) else (rows, columns)


def plain_layer(found: Any) -> Any:
    """Give the layer itself of one that has adapters around it."""
    while isinstance(found, nn.Module) and hasattr(found, "base_layer"):
        found = found.base_layer
    return found


def find(base: nn.Module, name: str) -> Any:
    """Give a module or parameter by its name.

    Args:
        base: The model without its head.
        name: The name.

    Returns:
        What is there, perhaps None.
    """
    found: Any = base
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def find_core(model: nn.Module) -> PreTrainedModel:
    """Find the transformers model in what is around it.

    Args:
        model: A transformers model, one with adapters, or a chain of modules that has one.

    Returns:
        It.

    Raises:
        TTTypeError: If there is none.
    """
    modules = model.modules() if isinstance(model, nn.Module) else ()
    core = next((module for module in modules if isinstance(module, PreTrainedModel)), None)
    if core is None:
        raise TTTypeError(f"model is a {type(model).__name__}; expected a transformers model.")
    return core
