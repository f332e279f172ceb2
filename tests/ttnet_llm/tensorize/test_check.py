"""What tensorising has lost, against the same worked out by hand."""

import math

import pytest
import torch
from torch import nn

from tests.ttnet_llm import models
from tests.ttnet_llm.models import IDS
from tests.ttnet_llm.tensorized import masked_bert, shrink
from ttnet.errors import TTValueError
from ttnet_llm.tensorize.check import QuickCheck

MASK = torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [1] * 6])
BATCHES = [{"input_ids": IDS[:2], "attention_mask": MASK[:2]}, {"input_ids": IDS[2:], "attention_mask": MASK[2:]}]


def outputs(model: nn.Module, row: int) -> torch.Tensor:
    """Of one text, without what is masked."""
    ids = IDS[row : row + 1, : int(MASK[row].sum())]
    with torch.no_grad():
        out = model(input_ids=ids)
    return (out.logits if "logits" in out else out.last_hidden_state)[0]


def test_perplexity_of_a_language_model() -> None:
    model = models.llama().train()

    def perplexity() -> float:
        model.eval()
        losses = []
        for row in range(3):
            ids = IDS[row, : int(MASK[row].sum())]
            losses.append(nn.functional.cross_entropy(outputs(model, row)[:-1], ids[1:], reduction="none"))
        model.train()
        return math.exp(float(torch.cat(losses).mean()))

    before = perplexity()
    check = QuickCheck(model, BATCHES)
    assert check.compare().loss == 0
    shrink(model, ["down_proj", "up_proj"], ratio=0.3)
    found = check.compare()
    assert model.training
    assert (found.measure, found.texts) == ("perplexity", 3)
    assert math.isclose(found.before, before, rel_tol=1e-5)
    assert math.isclose(found.after, perplexity(), rel_tol=1e-5)
    assert found.loss == found.after / found.before - 1


@pytest.mark.parametrize("make", [models.bert, masked_bert])
def test_agreement_of_classes_and_words(make: type) -> None:
    model = make()
    dense = [outputs(model, row).argmax(-1).flatten() for row in range(3)]
    check = QuickCheck(model, BATCHES, seen=True)
    shrink(model, ["dense", "query", "value"], ratio=0.1)
    now = [outputs(model, row).argmax(-1).flatten() for row in range(3)]
    found = check.compare()
    same = (torch.cat(now) == torch.cat(dense)).double().mean()
    assert (found.measure, found.before, found.after) == ("agreement", 1.0, float(same))
    assert "3 texts of the calibration, the agreement" in str(found)


def test_similarity_of_an_encoder() -> None:
    model = models.bert().bert
    dense = [outputs(model, row).mean(0) for row in range(3)]
    check = QuickCheck(model, BATCHES)
    shrink(model, ["intermediate.dense"], ratio=0.3)
    cosines = [nn.functional.cosine_similarity(outputs(model, row).mean(0), dense[row], dim=0) for row in range(3)]
    found = check.compare()
    assert found.measure == "similarity"
    assert math.isclose(found.after, float(torch.stack(cosines).mean()), rel_tol=1e-5)
    assert 0 < found.loss < 1


def test_there_must_be_something_to_look_at() -> None:
    with pytest.raises(TTValueError, match="batches is empty"):
        QuickCheck(models.bert(), [])
    with pytest.raises(TTValueError, match="No text in batches has more than one token"):
        QuickCheck(models.llama(), [{"input_ids": IDS[:, :1], "attention_mask": MASK[:, :1]}])
