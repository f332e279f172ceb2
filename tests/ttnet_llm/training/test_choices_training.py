"""Trainers of transformers' that learn from questions with choices, by every method."""

import pytest
import torch
from peft import IA3Config, get_peft_model
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, T5Config, Trainer, TrainingArguments

from tests.ttnet_llm.methods import METHODS
from tests.ttnet_llm.models import llama, t5
from tests.ttnet_llm.training.test_choices import WORDS, make_tokenizer
from ttnet.errors import TTValueError
from ttnet_llm import EtherConfig, LorettaRepConfig
from ttnet_llm.budget import count_parameters
from ttnet_llm.training.choices import ChoiceCollator, ChoiceLoss, Question, choosing, encode, rank_classify

CHOOSING = choosing(Trainer)
CONFIGS = {
    "ia3": IA3Config(task_type="CAUSAL_LM"),
    "loretta_rep": LorettaRepConfig(task_type="CAUSAL_LM", target_modules="all-linear"),
    "ether": EtherConfig(task_type="CAUSAL_LM", target_modules="all-linear"),
}


def questions(count):
    """The word in the middle says what is right; one choice is long, and every third question has three."""
    found = []
    for k in range(count):
        wrong = (" bad", " very very good")[: 1 + (k % 3 == 0)]
        found.append(Question(f"{WORDS[8 + k % 5]} {('good', 'bad')[k % 2]} was", (" nice", *wrong), (k % 2)))
    return found


def make_trainer(model, folder, loss, *, cls=CHOOSING, arguments=TrainingArguments, count=8, **options):
    tokenizer, decodes = make_tokenizer(), model.config.is_encoder_decoder
    options = {"per_device_train_batch_size": 8, "learning_rate": 0.1, "max_steps": 1, "optim": "sgd"} | options
    return cls(
        model=model,
        args=arguments(
            output_dir=str(folder), report_to="none", save_strategy="no", max_grad_norm=0.0, use_cpu=True,
            lr_scheduler_type="constant", disable_tqdm=True, label_names=["labels"], logging_steps=1, **options,
        ),
        train_dataset=[encode(tokenizer, each.right_first(), encoder_decoder=decodes) for each in questions(count)],
        data_collator=ChoiceCollator(tokenizer, model),
        compute_loss_func=loss,
    )  # fmt: skip


def trained(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5, 2.0), (0.0, 0.0)])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_is_the_same_however_it_is_cut_into_batches(tmp_path, name, weights):
    found, losses = [], []
    for size in (8, 4, 1):
        model = get_peft_model(llama().double(), CONFIGS[name]).double()
        steps = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 8 // size}
        trainer = make_trainer(model, tmp_path, ChoiceLoss(*weights), **steps)
        trainer.train()
        found.append(trained(model))
        losses.append(trainer.state.log_history[0]["loss"])
    start = trained(get_peft_model(llama().double(), CONFIGS[name]).double())
    assert any(not torch.equal(start[name], found[0][name]) for name in start)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=1e-6)
    assert losses == pytest.approx([losses[0]] * 3, abs=1e-3)  # the trainer rounds it


def test_the_step_is_that_of_the_loss_by_itself(tmp_path):
    one, other = llama().double(), llama().double()
    make_trainer(one, tmp_path, ChoiceLoss(), gradient_accumulation_steps=4, per_device_train_batch_size=2).train()
    tokenizer = make_tokenizer()
    batch = ChoiceCollator(tokenizer, other)([encode(tokenizer, each.right_first()) for each in questions(8)])
    labels = batch.pop("labels")
    ChoiceLoss()(other(**batch), labels).backward()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter -= 0.1 * parameter.grad
    torch.testing.assert_close(trained(one), trained(other), rtol=0, atol=1e-6)


def test_a_plain_trainer_does_whole_batches_and_says_what_it_cannot(tmp_path):
    one, other = llama().double(), llama().double()
    make_trainer(one, tmp_path, ChoiceLoss(), cls=Trainer).train()
    make_trainer(other, tmp_path, ChoiceLoss()).train()
    torch.testing.assert_close(trained(one), trained(other), rtol=0, atol=1e-6)
    cut = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    with pytest.raises(TTValueError, match=r"a step is of several batches.*make the trainer with .*choosing, which"):
        make_trainer(llama(), tmp_path, ChoiceLoss(), cls=Trainer, **cut).train()


def test_evaluations_are_means_of_batches(tmp_path):
    trainer = make_trainer(llama(), tmp_path, ChoiceLoss(), per_device_eval_batch_size=8)
    found = trainer.evaluate(trainer.train_dataset)["eval_loss"]
    batch = trainer.data_collator(trainer.train_dataset)
    labels = batch.pop("labels")
    with torch.no_grad():
        assert found == pytest.approx(float(ChoiceLoss()(trainer.model(**batch), labels)), abs=1e-5)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_method_learns_which_choice_is_right(tmp_path, method):
    model = get_peft_model(llama(), method(task_type="CAUSAL_LM"))
    learnt = questions(16)
    tokenizer = make_tokenizer()
    before = trained(model)
    trainer = make_trainer(model, tmp_path, ChoiceLoss(), count=16, max_steps=2)
    trainer.train()
    assert any(not torch.equal(before[name], p) for name, p in trained(model).items())
    assert rank_classify(model, tokenizer, learnt).shape == (16, 3)


def test_the_papers_adapter_has_as_many_numbers_as_published():
    # 0.54 million on T0-3B: keys, values, and the input of the feed-forward part's last matrix.
    sizes = {"d_model": 2048, "d_kv": 64, "d_ff": 5120, "num_layers": 24, "num_heads": 32, "vocab_size": 32128}
    config = T5Config(**sizes, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    assert count_parameters(config, IA3Config(task_type="SEQ_2_SEQ_LM")).adapter == 540_672


@pytest.mark.parametrize("build", [llama, t5])
def test_it_learns_by_heart(tmp_path, build):
    model, tokenizer = build(), make_tokenizer()
    decodes = model.config.is_encoder_decoder
    kind = {"cls": choosing(Seq2SeqTrainer), "arguments": Seq2SeqTrainingArguments} if decodes else {}
    loss = ChoiceLoss(shift=not decodes)
    how = {"max_steps": 40, "learning_rate": 1e-2, "optim": "adamw_torch"}
    trainer = make_trainer(model, tmp_path, loss, count=16, **how, **kind)
    trainer.train()
    asked = questions(16)
    scores = rank_classify(model, tokenizer, asked)
    assert [int(row.argmax()) for row in scores] == [question.right for question in asked]
