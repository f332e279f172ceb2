"""Few-shot learning by questions with choices, of which one is right, for every model that writes texts (T-Few)."""

from ttnet_llm.training.choices.loss import ChoiceLoss, choosing
from ttnet_llm.training.choices.questions import ChoiceCollator, Question, encode
from ttnet_llm.training.choices.ranking import rank_classify
from ttnet_llm.training.choices.templates import Template, ask_in_all_words, few_shot

__all__ = [
    "ChoiceCollator",
    "ChoiceLoss",
    "Question",
    "Template",
    "ask_in_all_words",
    "choosing",
    "encode",
    "few_shot",
    "rank_classify",
]
