"""The tuner of DePT, which adapts the one table that a model's encoder looks words up in."""

from typing import Any

from torch import nn
from transformers import AutoTokenizer

from ttnet.errors import TTTypeError, TTValueError
from ttnet_llm.prompts.config import WHY_NOT_CAUSAL, DeptConfig
from ttnet_llm.prompts.layer import DeptEmbedding, cannot_merge
from ttnet_llm.registry import register
from ttnet_llm.tuner import AdapterModel
from ttnet_llm.tuner.names import is_target, plain_name


class DeptModel(AdapterModel):
    """The tuner of DePT.

    Example:
        >>> from peft import get_peft_model
        >>> from transformers import AutoModel
        >>> model = get_peft_model(AutoModel.from_pretrained("encoder"), DeptConfig(num_virtual_tokens=4))
        >>> isinstance(model.base_model, DeptModel)
        True
    """

    prefix = "dept_"
    tuner_layer_cls = DeptEmbedding
    target_module_mapping: dict[str, Any] = {}  # noqa: RUF012  # every model says which its table is

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Put an adapter on the table of word embeddings.

        Args:
            model: The model to change.
            adapter_name: The adapter's name.
            *args: As `BaseTuner.inject_adapter` takes them.
            **kwargs: As `BaseTuner.inject_adapter` takes them.

        Raises:
            TTTypeError: If the model is of a class that a prompt cannot be put before.
            TTValueError: If more than one module is targeted.
        """
        check_model(model)
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        config: Any = getattr(model, "config", None)
        if hasattr(config, "get_text_config"):
            for layer in self.adapter_layers().values():
                layer.padding = getattr(config.get_text_config(), "pad_token_id", None)  # type: ignore[assignment]

    def _prepare_adapter_config(self, peft_config: DeptConfig, model_config: dict[str, Any]) -> DeptConfig:
        if peft_config.target_modules is None:
            peft_config.target_modules = {table_name(self.model)}
        targeted = [
            name
            for name, module in self.model.named_modules()
            if ".base_layer" not in f".{name}" and ".dept_" not in f".{name}" and is_target(peft_config, name)
        ]
        if len(targeted) > 1:
            raise TTValueError(
                f"target_modules names {len(targeted)} modules ({', '.join(targeted[:3])}{'...' * (len(targeted) > 3)})"
                ", and DePT adapts the one table in which an encoder looks words up; name it alone, or leave it out."
            )
        told = _told_table(self.model)
        for name in targeted:
            is_table = type(self.model.get_submodule(name)).forward is nn.Embedding.forward
            if is_table and told is not None and plain_name(name) != told:
                raise TTValueError(
                    f"target_modules names {name!r}, and the model looks words up in {told!r}; leave it out."
                )
        if peft_config.prompt_tuning_init_text and not peft_config.prompt_tuning_init_ids:
            peft_config.prompt_tuning_init_ids = _tokens(self.model, peft_config)
        return super()._prepare_adapter_config(peft_config, model_config)

    def _check_merge_allowed(self) -> None:
        raise cannot_merge()

    def add_weighted_adapter(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse to add adapters up."""
        raise TTTypeError(
            "dept adapters have no sum: each stands for its own prompt before a text. Use one for each row of a batch "
            "(adapter_names), or train one on the data of all."
        )


def check_model(model: Any) -> None:
    """Refuse models that a prompt cannot be put before.

    Args:
        model: The base model.

    Raises:
        TTTypeError: If it is a language model without an encoder, or hands the ids of its encoder to its decoder.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
        >>> check_model(BertModel(config))
    """
    config, name = getattr(model, "config", None), type(model).__name__
    encodes = getattr(config, "is_encoder_decoder", False)
    if not encodes and hasattr(model, "can_generate") and model.can_generate():
        raise TTTypeError(f"The model is a {name}, and {WHY_NOT_CAUSAL}.")
    if encodes and name.endswith(("ForSequenceClassification", "ForQuestionAnswering")):
        raise TTTypeError(
            f"The model is a {name}, which gives its decoder the ids of its encoder, and with them placeholders that "
            "only the encoder knows; take a model that is an encoder alone, or train the one that writes texts "
            "(ForConditionalGeneration) to write the classes' names."
        )


def table_name(model: nn.Module) -> str:
    """Find the table in which a model, or its encoder, looks up words.

    Args:
        model: A model of transformers'.

    Returns:
        Its full name, without what adapters put into it.

    Raises:
        TTValueError: If the model does not tell.

    Example:
        >>> from transformers import T5Config, T5ForConditionalGeneration
        >>> config = T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=9)
        >>> table_name(T5ForConditionalGeneration(config))
        'encoder.embed_tokens'
    """
    found = _told_table(model)
    if found is None:
        raise TTValueError(
            f"target_modules is None, and the {type(model).__name__} does not tell in which table it looks up words. "
            "Please specify `target_modules`: the name of its nn.Embedding."
        )
    return found


def _told_table(model: nn.Module) -> str | None:
    """Ask a model for the table; `None` if it does not tell."""
    part: Any = model
    try:
        if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
            part = part.get_encoder()
        table = part.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        table = None
    names = {name: module for name, module in model.named_modules() if isinstance(name, str)}
    found = next((name for name, module in names.items() if module is table), None)
    if found is None:
        return None
    inner = f"{plain_name(found).removesuffix('shared')}encoder.embed_tokens"
    # An encoder alone may hold the table under two names, and look up in its own.
    return inner if plain_name(found).endswith("shared") and inner in names else plain_name(found)


def _tokens(model: nn.Module, config: DeptConfig) -> list[int]:
    """Make tokens of the text that a prompt starts as."""
    name = config.tokenizer_name_or_path or getattr(getattr(model, "config", None), "_name_or_path", None)
    asked = f"prompt_tuning_init_text is {config.prompt_tuning_init_text!r}, but"
    if not name:
        raise TTValueError(
            f"{asked} the model was not loaded from a folder with a tokenizer; say where one is with "
            "tokenizer_name_or_path, or give prompt_tuning_init_ids."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise TTValueError(
            f"{asked} there is no tokenizer in {name!r} that makes tokens of it; say where with tokenizer_name_or_path."
        ) from error
    return list(tokenizer(config.prompt_tuning_init_text)["input_ids"])


register("dept", DeptConfig, DeptModel)
