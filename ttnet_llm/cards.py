"""Model cards: the README.md of a folder that is to be shared, written from what is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttnet_llm.files import write_text

if TYPE_CHECKING:
    from peft import LoraConfig

CARD = "README.md"
_AUTO = {
    "SEQ_CLS": "AutoPeftModelForSequenceClassification",
    "TOKEN_CLS": "AutoPeftModelForTokenClassification",
    "CAUSAL_LM": "AutoPeftModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoPeftModelForSeq2SeqLM",
    "QUESTION_ANS": "AutoPeftModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoPeftModelForFeatureExtraction",
}


@dataclass(frozen=True)
class Card:
    """What a card says.

    Args:
        title: Its heading.
        about: A sentence or two.
        base: The base model, by id or path; of a path only the last part is told.
        facts: Rows of a table.
        code: A program that uses the model, run in its folder.
        tags: For the hub.
        library: For the hub.
        pipeline: For the hub.

    Example:
        >>> print(Card("LoRA on bert", "Small.", "/home/me/bert", {"rank": "8"}, "print(1)").text)
        ---
        library_name: peft
        tags:
        - ttnet
        ---
        <BLANKLINE>
        # LoRA on bert
        <BLANKLINE>
        Small.
        <BLANKLINE>
        | | |
        | --- | --- |
        | base model | bert |
        | rank | 8 |
        <BLANKLINE>
        ## Use
        <BLANKLINE>
        ```python
        print(1)
        ```
        <BLANKLINE>
    """

    title: str
    about: str
    base: str | None
    facts: Mapping[str, str]
    code: str
    tags: Sequence[str] = ("ttnet",)
    library: str = "peft"
    pipeline: str | None = None

    @property
    def text(self) -> str:
        """The card in Markdown, with the hub's fields before it."""
        fields = [f"library_name: {self.library}", "tags:", *(f"- {tag}" for tag in self.tags)]
        if self.base and not is_local(self.base):
            fields.insert(0, f"base_model: {self.base}")
        if self.pipeline:
            fields.append(f"pipeline_tag: {self.pipeline}")
        facts = ({"base model": shown_base(self.base)} if self.base else {}) | dict(self.facts)
        rows = [f"| {name} | {' '.join(value.split()).replace('|', chr(92) + '|')} |" for name, value in facts.items()]
        head = ["---", *fields, "---", "", f"# {self.title}", "", self.about, "", "| | |", "| --- | --- |", *rows]
        return "\n".join([*head, "", "## Use", "", "```python", self.code, "```", ""])

    def write(self, folder: str | Path) -> None:
        """Write the card into a folder."""
        write_text(Path(folder) / CARD, self.text)


def is_local(base: str) -> bool:
    """Tell whether the name of a base model is a path, and no id on the hub.

    Example:
        >>> is_local("/home/me/bert"), is_local("./bert"), is_local("google-bert/bert-base-uncased")
        (True, True, False)
    """
    return Path(base).exists() or base.startswith((".", "/", "~")) or "\\" in base or base.count("/") > 1


def shown_base(base: str) -> str:
    """Name a base model without saying where it lies on somebody's machine."""
    return Path(base).resolve().name if is_local(base) else base


def lora_card(config: LoraConfig, parameters: int, classes: Mapping[str, Any]) -> Card:
    """Say of an exported LoRA checkpoint what it is, and how plain PEFT loads it.

    Args:
        config: Its config.
        parameters: The numbers in its file.
        classes: What a config says of a classifier's classes.

    Returns:
        The card.
    """
    base = config.base_model_name_or_path
    task = getattr(config.task_type, "value", config.task_type)
    names = list((classes.get("id2label") or {}).values())
    extra = f", num_labels={len(names)}" if names else ""
    if auto := _AUTO.get(task or ""):
        code = f'from peft import {auto}\n\nmodel = {auto}.from_pretrained("."{extra})  # this folder, or its hub id'
    else:
        code = (
            "from peft import PeftModel\n\n\ndef put_on(base_model):\n"
            '    return PeftModel.from_pretrained(base_model, ".")  # this folder, or its hub id'
        )
    facts = {
        "method": f"LoRA of rank {config.r}",
        "parameters": f"{parameters:,}",
        **({"classes": ", ".join(map(str, names))} if names else {}),
    }
    about = "An adapter that was exported exactly to plain LoRA by ttnet (the distribution `ttnet-torch`)."
    return Card(f"LoRA on {shown_base(base)}" if base else "LoRA", about, base, facts, code, ("ttnet", "lora"))
