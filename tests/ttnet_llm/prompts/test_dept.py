"""DePT against its formula, PEFT's prompt tuning and the base model; its files, padding and batches."""

import copy
import math
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers as tf
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file
from torch import nn

from tests.ttnet_llm import models
from tests.ttnet_llm.models import perturb
from tests.ttnet_llm.prompts.shared import (
    IDS,
    LENGTH,
    M,
    answers,
    bart,
    config,
    decoder,
    each_model,
    layer_of,
    logits_of,
    states,
    table,
)
from ttnet.nn import TTEmbedding
from ttnet_llm import DeptConfig, prepend_prompt, rescale_adapter_scale
from ttnet_llm.budget import count_parameters
from ttnet_llm.prompts.layer import DeptEmbedding


@given(
    st.integers(1, 6), st.integers(1, 5), st.integers(1, 12), st.integers(0, 4), st.integers(0, 4), st.integers(0, 99)
)
def test_it_is_its_formula(m: int, r: int, words: int, before: int, after: int, seed: int) -> None:
    """[pads, P, E + alpha / sqrt(r) A[:n] B, ...], whatever stands before the prompt and after the text."""
    model = table(seed, num_virtual_tokens=m, r=r, max_length=12 + 4, alpha=5)
    layer = layer_of(model)
    network, embedding = layer.networks["default"], layer.base_layer
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(1, 20, (words + after,), generator=generator)
    ids = torch.cat([torch.zeros(before, dtype=torch.long), torch.arange(20, 20 + m), text])
    offset = 5 / math.sqrt(r) * network.A[: words + after] @ network.B
    expected = torch.cat([embedding.weight[:1].expand(before, -1), network.prompt, embedding.weight[text] + offset])
    torch.testing.assert_close(model(ids[None])[0], expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model(ids), expected, rtol=1e-12, atol=1e-12)  # any leading shape
    torch.testing.assert_close(model(ids.expand(2, 3, -1))[1, 2], expected, rtol=1e-12, atol=1e-12)


def test_gradients_match_finite_differences() -> None:
    model = table()
    names, parameters = zip(*((n, p) for n, p in model.named_parameters() if p.requires_grad), strict=True)
    assert [name.rpartition(".")[2] for name in names] == ["prompt", "A", "B"]
    ids = torch.tensor([[0, 20, 21, 22, 23, 24, 3, 4, 4], [20, 21, 22, 23, 24, 7, 0, 0, 0]])

    def forward(*values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), (ids,))

    assert torch.autograd.gradcheck(forward, parameters)


@each_model
def test_gradient_flows_to_the_prompt_and_both_factors(make: Callable[[], nn.Module]) -> None:
    model = get_peft_model(make(), config(init_weights=False))
    batch = prepend_prompt({"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}, model)
    labels = IDS if model.config.is_encoder_decoder else torch.tensor([0, 1, 0])
    model(**batch, labels=labels).loss.backward()
    trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert [name.rpartition(".")[2] for name in trained] == ["prompt", "A", "B"]
    for name, gradient in trained.items():
        assert torch.isfinite(gradient).all(), name
        rows = gradient if not name.endswith("A") else gradient[: IDS.shape[1]]
        assert (rows.abs().sum(-1) > 0).all(), name


@pytest.mark.parametrize(
    ("base", "count"),
    [
        (tf.RobertaConfig(vocab_size=50265, num_hidden_layers=1), 76_800),  # roberta-base but for its depth
        (tf.T5Config(d_model=768, d_ff=8, num_layers=1, num_decoder_layers=1), 76_800),  # t5-base likewise
        (tf.RobertaConfig(vocab_size=50265, hidden_size=1024, num_attention_heads=16, num_hidden_layers=1), 98_560),
        (tf.T5Config(d_model=4096, d_ff=8, num_layers=1, num_decoder_layers=1), 359_680),
    ],
)
def test_published_counts(base: tf.PretrainedConfig, count: int) -> None:
    """m d + max_length r + r d for m = 40, r = 45 and 256 tokens."""
    assert count_parameters(base, DeptConfig()).adapter == count
    task = "SEQ_2_SEQ_LM" if base.is_encoder_decoder else "SEQ_CLS"
    assert count_parameters(base, DeptConfig(task_type=task)).adapter == count


@pytest.mark.parametrize("make", [models.bert, models.roberta, decoder])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_without_an_offset_it_is_prompt_tuning(make: Callable[[], nn.Module], dtype: torch.dtype, atol: float) -> None:
    ours = get_peft_model(make().to(dtype), config(task_type="SEQ_CLS")).eval()
    theirs = get_peft_model(make().to(dtype), PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=M)).eval()
    with torch.no_grad():
        theirs.prompt_encoder["default"].to(dtype).embedding.weight.copy_(layer_of(ours).networks["default"].prompt)
    whole = [[p for n, p in model.named_parameters() if "modules_to_save" in n] for model in (ours, theirs)]
    assert whole[0]
    for mine, other in zip(*whole, strict=True):
        other.data.copy_(mine.data)
    mask = torch.ones_like(IDS)
    mask[1, 4:] = int(make is decoder)  # PEFT hides the ids by which a decoder's head would tell padding
    ids = IDS.masked_fill(mask == 0, make().config.pad_token_id or 0)
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(answers(ours, ids, mask), expected, rtol=0, atol=atol)
    perturb(ours)
    assert (answers(ours, ids, mask) - expected).abs().max() > 1e-3


def test_on_t5_it_is_prompt_tuning_of_the_encoder() -> None:
    """PEFT puts its prompt before what an encoder reads by `inputs_embeds`; so is it here, without PEFT's wrapper."""
    model = perturb(get_peft_model(models.t5().double(), config(task_type="SEQ_2_SEQ_LM"))).eval()
    network = layer_of(model).networks["default"]
    nn.init.zeros_(network.B)
    base = models.t5().double()
    words = base.shared(IDS)
    embeds = torch.cat([network.prompt.expand(len(IDS), -1, -1), words], 1)
    mask = torch.ones(len(IDS), M + IDS.shape[1], dtype=torch.long)
    with torch.no_grad():
        expected = base(inputs_embeds=embeds, attention_mask=mask, decoder_input_ids=IDS[:1].expand(3, -1)).logits
    torch.testing.assert_close(answers(model), expected, rtol=1e-12, atol=1e-12)


@each_model
def test_it_adapts_one_table_although_weights_are_tied(make: Callable[[], nn.Module]) -> None:
    base = make()
    weights = {name: p.clone() for name, p in base.named_parameters(remove_duplicate=False)}
    model = get_peft_model(base, config(init_weights=False))
    (name,) = model.base_model.targeted_module_names
    if base.config.is_encoder_decoder:
        assert name.endswith("encoder.embed_tokens")
    assert [n for n, m in model.base_model.model.named_modules() if isinstance(m, DeptEmbedding)] == [name]
    after = dict(base.named_parameters(remove_duplicate=False))
    for old, value in weights.items():
        new = after.get(old, after.get(old.replace(name, f"{name}.base_layer")))
        assert torch.equal(new, value), old
    if make is models.t5:  # the decoder and the head go on sharing the table
        assert base.shared.weight is base.lm_head.weight is base.decoder.embed_tokens.weight
        assert base.encoder.embed_tokens.base_layer.weight is base.shared.weight


@each_model
def test_texts_without_a_prompt_and_disabled_adapters_are_the_base_model_exactly(make: Callable[[], nn.Module]) -> None:
    base = make()
    expected, plain = logits_of(base), answers(base)
    model = perturb(get_peft_model(base, config())).eval()
    assert torch.equal(logits_of(model), expected)
    assert not torch.allclose(answers(model), plain, atol=1e-3)
    with model.disable_adapter():
        assert torch.equal(logits_of(model), expected)
        assert torch.equal(answers(model), plain)  # no prompt is put in
    assert torch.equal(logits_of(model.unload()), expected)


@each_model
def test_padding_on_either_side_moves_nothing(make: Callable[[], nn.Module]) -> None:
    """The states of words, as some heads read the first place whatever is there."""
    model = perturb(get_peft_model(make().double(), config())).eval()
    pads, words = torch.full((1, 3), model.config.pad_token_id or 0), IDS[:1]
    off, on = torch.zeros_like(pads), torch.ones_like(words)
    alone = states(model, words, on)
    right = states(model, torch.cat([words, pads], 1), torch.cat([on, off], 1))
    torch.testing.assert_close(right[:, : M + 6], alone, rtol=0, atol=1e-10)
    if make is not bart:  # which counts positions from the first place, whatever the mask says, and takes no others
        left = states(model, torch.cat([pads, words], 1), torch.cat([off, on], 1))
        torch.testing.assert_close(left[:, 3:], alone, rtol=0, atol=1e-10)


@each_model
def test_rows_of_a_batch_use_their_own_prompt(make: Callable[[], nn.Module]) -> None:
    base = make()
    expected = answers(base)
    model = perturb(get_peft_model(base, config(), adapter_name="one"), seed=1).eval()
    model.add_adapter("two", config(r=2, max_length=12))
    model.set_adapter("two")
    perturb(model, seed=2)
    alone = {}
    for name in ("one", "two"):
        model.set_adapter(name)
        alone[name] = answers(model)
    mixed = answers(model, adapter_names=["one", "two", "one"])
    torch.testing.assert_close(mixed, torch.stack([alone["one"][0], alone["two"][1], alone["one"][2]]))
    # A row of the base model has no placeholders, and the others none of its padding to look at.
    batch = prepend_prompt({"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}, model)
    pad = model.config.pad_token_id or 0
    for name, fill in (("input_ids", pad), ("attention_mask", 0)):
        batch[name][0] = torch.cat([batch[name][0][M:], torch.full((M,), fill)])
    if base.config.is_encoder_decoder:
        batch["decoder_input_ids"] = IDS[:1].expand(3, -1)
    with torch.no_grad():
        mixed = model(**batch, adapter_names=["__base__", "two", "one"]).logits
    torch.testing.assert_close(
        mixed, torch.stack([expected[0], alone["two"][1], alone["one"][2]]), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("num_beams", [1, 3])
def test_t5_generates_with_prompts_of_its_own(num_beams: int) -> None:
    options = {"max_new_tokens": 5, "num_beams": num_beams, "do_sample": False}
    base = models.t5()
    untouched = base.generate(input_ids=IDS, **options)
    model = perturb(get_peft_model(base, config(), adapter_name="one"), seed=1).eval()
    model.add_adapter("two", config())
    model.set_adapter("two")
    perturb(model, seed=2, spread=2.0)
    batch = prepend_prompt({"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}, model)
    mixed = model.generate(**batch, adapter_names=["one", "two", "one"], **options)
    for row, adapter in enumerate(["one", "two", "one"]):
        model.set_adapter(adapter)
        alone = model.generate(**batch, **options)[row]
        shared = min(len(alone), mixed.shape[1])
        assert torch.equal(mixed[row, :shared], alone[:shared])
        cached = model.generate(**batch, **options, use_cache=False)[row]
        assert torch.equal(cached, alone)  # unlike in models without an encoder
    assert torch.equal(model.generate(input_ids=IDS, **options), untouched)


@each_model
def test_a_trained_adapter_survives_saving(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    model = perturb(get_peft_model(make(), config())).eval()
    trained = answers(model)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert sorted(key.rpartition(".")[2] for key in saved) == ["A", "B", "prompt"]
    assert sum(values.numel() for values in saved.values()) == model.get_nb_trainable_parameters()[0]
    assert isinstance(PeftConfig.from_pretrained(tmp_path), DeptConfig)
    for options in ({}, {"low_cpu_mem_usage": True}):
        loaded = PeftModel.from_pretrained(make(), tmp_path, **options).eval()
        assert torch.equal(answers(loaded), trained)
    fresh = make()
    fresh.load_adapter(str(tmp_path))
    for theirs, ours in zip(layer_of(fresh).networks.parameters(), layer_of(model).networks.parameters(), strict=True):
        assert torch.equal(theirs, ours)
    torch.testing.assert_close(answers(fresh.eval()), trained, rtol=1e-5, atol=1e-6)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(answers(copied), trained)


@pytest.mark.filterwarnings("error:Setting `save_embedding_layers`")
@pytest.mark.parametrize("part", ["a decoder alone", "an encoder alone"])
def test_no_table_is_saved_whatever_it_is_called(part: str, tmp_path: Path) -> None:
    """PEFT takes the table along where a target is called `embed_tokens` and nothing else."""
    base = decoder().model if part == "a decoder alone" else models.t5().encoder
    model = get_peft_model(base, config(task_type="FEATURE_EXTRACTION"))
    assert model.base_model.targeted_module_names == ["embed_tokens"]
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert sorted(key.rpartition(".")[2] for key in saved) == ["A", "B", "prompt"]


def test_heads_and_norms_are_trained_and_saved(tmp_path: Path) -> None:
    model = perturb(get_peft_model(models.bert(), config(task_type="SEQ_CLS", train_norms=True))).eval()
    trained = answers(model)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert any("classifier" in key for key in saved)
    assert any("LayerNorm" in key for key in saved)
    assert torch.equal(answers(PeftModel.from_pretrained(models.bert(), tmp_path).eval()), trained)


def test_adapters_can_be_added_switched_and_deleted() -> None:
    model = perturb(get_peft_model(models.bert(), config(), adapter_name="first"), seed=1).eval()
    first = answers(model)
    model.add_adapter("second", config(num_virtual_tokens=2))
    assert layer_of(model).networks["second"].prompt.requires_grad is False
    model.set_adapter("second")
    second = answers(perturb(model, seed=2))
    model.set_adapter("first")
    assert torch.equal(answers(model), first)
    model.delete_adapter("first")
    model.set_adapter("second")
    assert torch.equal(answers(model), second)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_adapters_are_float32_under_a_half_precision_base(dtype: torch.dtype) -> None:
    base = models.bert().to(dtype)
    expected = logits_of(base)
    model = get_peft_model(copy.deepcopy(base), config())
    assert {p.dtype for p in layer_of(model).networks.parameters()} == {torch.float32}
    assert answers(perturb(model)).dtype == dtype
    assert torch.equal(logits_of(model), expected)
    same = get_peft_model(copy.deepcopy(base), config(), autocast_adapter_dtype=False)
    assert {p.dtype for p in layer_of(same).networks.parameters()} == {dtype}
    assert answers(same).dtype == dtype


def test_compiles_without_graph_breaks() -> None:
    model = perturb(get_peft_model(decoder(), config())).eval()
    batch = prepend_prompt({"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}, model)
    torch.compiler.reset()
    with torch.no_grad():
        expected = model(**batch).logits
        embedded = torch.compile(layer_of(model), fullgraph=True, backend="eager")(batch["input_ids"])
        torch.testing.assert_close(embedded, layer_of(model)(batch["input_ids"]))
        torch.testing.assert_close(torch.compile(model, backend="eager")(**batch).logits, expected)
        too_long = torch.cat([batch["input_ids"], IDS], 1)
        with pytest.raises(Exception, match="index out of range"):
            torch.compile(layer_of(model), fullgraph=True, backend="eager")(too_long)


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    def gradients(**options: bool) -> dict[str, torch.Tensor]:
        model = perturb(get_peft_model(models.bert(), config())).train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        if options:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
        batch = prepend_prompt({"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}, model)
        model(**batch, labels=torch.tensor([0, 1, 0])).loss.backward()
        return {n: p.grad for n, p in model.named_parameters() if p.requires_grad}

    expected = gradients()
    for reentrant in (False, True):
        for name, gradient in gradients(use_reentrant=reentrant).items():
            torch.testing.assert_close(gradient, expected[name], msg=name)


def test_autocast_and_dropout() -> None:
    model = perturb(get_peft_model(models.bert(), config(dropout=0.5)))
    batch = prepend_prompt({"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}, model)
    embed = layer_of(model)
    assert torch.equal(embed.eval()(batch["input_ids"]), embed(batch["input_ids"]))
    assert not torch.equal(embed.train()(batch["input_ids"]), embed(batch["input_ids"]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(**batch, labels=torch.tensor([0, 1, 0])).loss
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


def test_the_prompt_starts_as_words_of_the_table() -> None:
    base = bart()
    drawn = layer_of(get_peft_model(copy.deepcopy(base), config())).networks["default"].prompt
    words = base.get_encoder().embed_tokens(torch.arange(64))  # four times what the table holds
    assert torch.equal((drawn[:, None] == words).all(-1).any(1), torch.ones(M, dtype=torch.bool))
    given = layer_of(get_peft_model(base, config(prompt_tuning_init_ids=[7, 3]))).networks["default"]
    assert torch.equal(given.prompt, words[torch.tensor([7, 3, 7, 3, 7])])
    assert torch.equal(given.B, torch.zeros_like(given.B))
    assert given.A.abs().max() <= 3**-0.5
    assert given.A.abs().max() > 0.9 * 3**-0.5


def test_a_table_that_is_a_train_takes_a_prompt() -> None:
    torch.manual_seed(0)
    model = get_peft_model(nn.Sequential(TTEmbedding(20, 6, ranks=2)), config(target_modules=["0"])).eval()
    words = layer_of(model).base_layer(torch.arange(20))
    network = layer_of(perturb(model)).networks["default"]
    assert network.prompt.shape == (M, 6)
    found = model(torch.tensor([[*range(20, 20 + M), 7, 8]]))[0]
    offset = layer_of(model).scalings["default"] * network.A[:2] @ network.B
    torch.testing.assert_close(found, torch.cat([network.prompt, words[7:9] + offset]))


def test_a_seed_draws_the_same_prompt() -> None:
    starts = []
    for seed in (0, 0, 1):
        base = models.bert()
        torch.manual_seed(seed)
        starts.append(layer_of(get_peft_model(base, config())).networks["default"].prompt)
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_the_scale_of_the_offset_alone_is_changed() -> None:
    model = perturb(get_peft_model(models.bert(), config())).eval()
    ids = prepend_prompt({"input_ids": IDS}, model)["input_ids"]
    whole = layer_of(model)(ids)
    with rescale_adapter_scale(model, 0.0):
        without = layer_of(model)(ids)
    assert torch.equal(whole[:, :M], without[:, :M])
    assert torch.equal(without[:, M:], layer_of(model).base_layer(IDS))
    assert torch.equal(layer_of(model)(ids), whole)


def test_the_offset_is_a_low_rank_update_of_a_table_of_positions() -> None:
    """What the refusal to merge points at."""
    model = perturb(get_peft_model(models.bert().double(), config())).eval()
    expected = answers(model)
    network, scaling = layer_of(model).networks["default"], layer_of(model).scalings["default"]
    base = models.bert().double()
    with torch.no_grad():
        base.bert.embeddings.position_embeddings.weight[M : M + LENGTH] += scaling * network.A @ network.B
        words = base.bert.embeddings.word_embeddings
        base.bert.embeddings.word_embeddings = nn.Embedding.from_pretrained(torch.cat([words.weight, network.prompt]))
        ids = torch.cat([torch.arange(64, 64 + M).expand(3, -1), IDS], 1)
        torch.testing.assert_close(base(input_ids=ids).logits, expected, rtol=1e-12, atol=1e-12)
