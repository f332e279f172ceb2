"""Every method in the libraries around PEFT: vision models, sentence-transformers and TRL."""

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import transformers as tf
from peft import PeftMixedModel, PeftModel, get_peft_model
from peft.utils.hotswap import hotswap_adapter

from tests.ttnet_llm import models, tiny
from tests.ttnet_llm.methods import Method, each
from tests.ttnet_llm.models import logits, perturb


@each()
def test_vision_transformers(config_cls: Method, tmp_path: Path) -> None:
    images = torch.randn(2, 3, 16, 16)
    base = models.vit()
    expected = base(images).logits
    model = get_peft_model(base, config_cls(modules_to_save=["classifier"]))
    assert torch.equal(model(images).logits, expected)
    trained = perturb(model)(images).logits
    assert not torch.allclose(trained, expected)
    model.save_pretrained(tmp_path)
    assert torch.equal(PeftModel.from_pretrained(models.vit(), tmp_path).eval()(images).logits, trained)


@each()
def test_sentence_transformers(config_cls: Method, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    tiny.save_model(tmp_path / "base")
    sentences = ["the film was good", "the book was bad"]
    model = SentenceTransformer(str(tmp_path / "base"), device="cpu")
    expected = model.encode(sentences)
    model.add_adapter(config_cls(task_type="FEATURE_EXTRACTION"))
    assert np.array_equal(model.encode(sentences), expected)
    trained = perturb(model).encode(sentences)
    assert not np.allclose(trained, expected)
    model.save_pretrained(str(tmp_path / "adapter"))
    loaded = SentenceTransformer(str(tmp_path / "base"), device="cpu")
    loaded.load_adapter(str(tmp_path / "adapter"))
    np.testing.assert_allclose(loaded.encode(sentences), trained, rtol=1e-5, atol=1e-6)


@each()
def test_trl_supervised_fine_tuning(config_cls: Method, tmp_path: Path) -> None:
    from trl import SFTConfig, SFTTrainer

    tokenizer = tf.AutoTokenizer.from_pretrained(tiny.save_model(tmp_path / "base"))
    tokenizer.eos_token = "[SEP]"
    base = models.llama()
    before = {name: parameter.clone() for name, parameter in base.named_parameters()}
    trainer = SFTTrainer(
        model=base,
        args=SFTConfig(
            output_dir=str(tmp_path / "run"),
            max_steps=2,
            learning_rate=1e-2,
            per_device_train_batch_size=2,
            report_to="none",
            use_cpu=True,
            bf16=False,
            disable_tqdm=True,
        ),
        train_dataset=datasets.Dataset.from_dict({"text": [str(row["text"]) for row in tiny.rows(8)]}),
        processing_class=tokenizer,
        peft_config=config_cls(task_type="CAUSAL_LM"),
    )
    trainer.train()
    trained = trainer.model.eval()
    assert isinstance(trained, PeftModel)
    expected = logits(trained)
    with trained.disable_adapter():
        assert not torch.equal(logits(trained), expected)
    trainer.save_model(str(tmp_path / "adapter"))
    loaded = PeftModel.from_pretrained(models.llama(), tmp_path / "adapter").eval()
    torch.testing.assert_close(logits(loaded), expected)
    after = dict(loaded.unload().named_parameters())
    assert all(torch.equal(after[name], parameter) for name, parameter in before.items())


@each("merges")
def test_what_peft_keeps_for_lora_is_refused(config_cls: Method, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not compatible with"):
        PeftMixedModel(models.llama(), config_cls())
    model = perturb(get_peft_model(models.llama(), config_cls()))
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"supports LoRA|is not supported|only support"):
        hotswap_adapter(model, str(tmp_path), "default")


@each()
def test_bfloat16_training(config_cls: Method) -> None:
    model = get_peft_model(models.llama().to(torch.bfloat16), config_cls()).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(15):
        loss = model(input_ids=models.IDS, labels=models.IDS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@each()
def test_tied_embeddings_stay_tied(config_cls: Method) -> None:
    base = models.llama(tie_word_embeddings=True)
    expected = logits(base)
    model = get_peft_model(base, config_cls())
    assert torch.equal(logits(model), expected)
    assert base.lm_head.weight is base.get_input_embeddings().weight
