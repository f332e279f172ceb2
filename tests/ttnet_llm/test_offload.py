"""Models whose weights wait on the CPU or the disk until they are used, as accelerate offloads them."""

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from peft import PeftModel, get_peft_model

from tests.ttnet_llm import models
from tests.ttnet_llm.methods import METHODS, each
from tests.ttnet_llm.models import logits
from ttnet_llm import EtherConfig, LorettaAdpConfig, LorettaRepConfig, TTLoraConfig, export_lora
from ttnet_llm.tensorize import tensorize

each_method = each()
MERGING = [method for method in METHODS if method.merges]
each_merging = pytest.mark.parametrize("config_cls", MERGING, ids=[method.name for method in MERGING])


def on_cpu(model, folder):
    return cpu_offload(model, execution_device="cpu", offload_buffers=True)


def on_disk(model, folder):
    return disk_offload(model, str(folder), execution_device="cpu", offload_buffers=True)


def in_parts(model, folder):
    prefix = "base_model.model." if isinstance(model, PeftModel) else ""
    parts = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk", "model.norm": "disk"}
    parts |= {"model.rotary_emb": "cpu", "lm_head": "disk"}
    device_map = {prefix + name: place for name, place in parts.items()}
    return dispatch_model(model, device_map, main_device="cpu", offload_dir=str(folder), force_hooks=True)


each_offload = pytest.mark.parametrize("offload", [on_cpu, on_disk, in_parts])
slow = [pytest.param(offload, marks=pytest.mark.slow) for offload in (on_cpu, in_parts)]
one_quickly_all_slowly = pytest.mark.parametrize("offload", [on_disk, *slow])


def adapted(config_cls, **options):
    torch.manual_seed(0)
    return get_peft_model(models.llama(), config_cls(init_weights=False, **options)).eval()


@each_method
@each_offload
def test_an_adapted_model_gives_the_same_bit_for_bit(config_cls, offload, tmp_path):
    expected = logits(adapted(config_cls))
    model = offload(adapted(config_cls), tmp_path)
    for _ in range(2):
        assert torch.equal(logits(model), expected)


@each_method
@one_quickly_all_slowly
def test_an_adapter_on_an_offloaded_base_gives_the_same(config_cls, offload, tmp_path):
    expected = logits(adapted(config_cls))
    base = offload(models.llama(), tmp_path)
    torch.manual_seed(0)
    models.llama()  # draws what it drew above
    model = get_peft_model(base, config_cls(init_weights=False)).eval()
    assert not any(parameter.is_meta for name, parameter in model.named_parameters() if "_network" in name)
    assert torch.equal(logits(model), expected)


@each_method
@one_quickly_all_slowly
def test_an_adapter_is_saved_from_and_loaded_into_an_offloaded_model(config_cls, offload, tmp_path):
    plain = adapted(config_cls)
    expected = logits(plain)
    model = offload(plain, tmp_path / "first")
    model.save_pretrained(tmp_path / "adapter")  # before anything was run
    loaded = PeftModel.from_pretrained(models.llama(), tmp_path / "adapter").eval()
    assert torch.equal(logits(loaded), expected)
    again = PeftModel.from_pretrained(offload(models.llama(), tmp_path / "second"), tmp_path / "adapter").eval()
    assert torch.equal(logits(again), expected)


@each_merging
@one_quickly_all_slowly
def test_it_is_merged_and_exported(config_cls, offload, tmp_path):
    plain = adapted(config_cls)
    expected = logits(plain)
    model = offload(plain, tmp_path / "offload")
    export_lora(model, tmp_path / "lora")
    exported = PeftModel.from_pretrained(models.llama(), tmp_path / "lora").eval()
    torch.testing.assert_close(logits(exported), expected, rtol=1e-5, atol=1e-5)
    merged = model.merge_and_unload()
    torch.testing.assert_close(logits(merged), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("config_cls", [LorettaRepConfig, TTLoraConfig])
@one_quickly_all_slowly
def test_it_starts_from_the_weights_of_an_offloaded_base(config_cls, offload, tmp_path):
    config = config_cls(init_weights="tt_svd", tt_rank=2)
    expected = get_peft_model(models.llama(), config)
    model = get_peft_model(offload(models.llama(), tmp_path), config_cls(init_weights="tt_svd", tt_rank=2))
    theirs = {name: p for name, p in expected.named_parameters() if "_network" in name}
    ours = {name: p for name, p in model.named_parameters() if "_network" in name}
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    assert torch.equal(logits(model.eval()), logits(expected.eval()))


@each_method
def test_it_is_trained_on_an_offloaded_base(config_cls, tmp_path):
    def step(model):
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        model(input_ids=models.IDS, labels=models.IDS).loss.backward()
        optimizer.step()
        return logits(model)

    expected = step(adapted(config_cls))
    base = on_cpu(models.llama(), tmp_path)
    torch.manual_seed(0)
    models.llama()
    assert torch.equal(step(get_peft_model(base, config_cls(init_weights=False)).eval()), expected)


@one_quickly_all_slowly
def test_layers_that_are_trains_are_offloaded_too(offload, tmp_path):
    def make():
        base = models.llama()
        tensorize(base, targets=["q_proj", "embed_tokens"], ratio=0.6, progress=False)
        return base

    base = make()
    expected = logits(base)
    assert torch.equal(logits(offload(base, tmp_path / "bare")), expected)
    torch.manual_seed(0)
    expected = logits(get_peft_model(make(), TTLoraConfig(init_weights=False, target_modules=["q_proj"])).eval())
    base = offload(make(), tmp_path / "base")
    torch.manual_seed(0)
    make()
    model = get_peft_model(base, TTLoraConfig(init_weights=False, target_modules=["q_proj"])).eval()
    assert torch.equal(logits(model), expected)


@pytest.mark.parametrize("config_cls", [LorettaRepConfig, LorettaAdpConfig])
def test_heads_of_trains_are_offloaded_too(config_cls):
    def make():
        torch.manual_seed(0)
        config = config_cls(init_weights=False, tt_head=True, task_type="SEQ_CLS")
        return get_peft_model(models.roberta(), config).eval()

    assert torch.equal(logits(on_cpu(make(), None)), logits(make()))


def test_tables_are_offloaded_too():
    def make():
        torch.manual_seed(0)
        return get_peft_model(models.llama(), TTLoraConfig(init_weights=False, target_modules=["embed_tokens"])).eval()

    assert torch.equal(logits(on_cpu(make(), None)), logits(make()))


@pytest.mark.parametrize("offload", [on_cpu, on_disk])
@pytest.mark.parametrize("make", [models.gpt2, models.opt])
def test_outputs_are_turned_about_biases_that_are_offloaded(make, offload, tmp_path):
    def turned():
        torch.manual_seed(0)
        base = make()
        for name, parameter in base.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter)
        return get_peft_model(base, EtherConfig(init_weights=False, n=2)).eval()

    expected = logits(turned())
    assert torch.equal(logits(offload(turned(), tmp_path)), expected)
