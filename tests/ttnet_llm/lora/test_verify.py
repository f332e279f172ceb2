"""Exports that plain PEFT would not load as they are meant: written in a form that it does, or else refused."""

import warnings
from pathlib import Path

import pytest
import torch
import transformers as tf
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import conversion_mapping
from transformers.core_model_loading import WeightRenaming

from tests.ttnet_llm import models
from tests.ttnet_llm.models import logits, logits_without_this_package, perturb
from ttnet.errors import TTTypeError
from ttnet.nn import TTEmbedding, TTLinear
from ttnet_llm import LotrConfig, TTLoraConfig, export_lora
from ttnet_llm.lora.checkpoint import LoraCheckpoint, lora_factors, read_lora, write_lora
from ttnet_llm.lora.compress import compress_lora
from ttnet_llm.lora.verify import loading_faults, skeleton

# Of these PEFT takes `gate_proj`, `up_proj` and `down_proj` for experts', also where they are shared experts' or dense.
EXPERTS = models.DECODER | {"head_dim": 8, "moe_intermediate_size": 24, "num_experts_per_tok": 2}
ROUTED = EXPERTS | {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
LATENT = {"kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
LATENT |= {"num_key_value_heads": 4}
INDEXED = LATENT | {"index_n_heads": 2, "index_head_dim": 16, "index_topk": 4}
SHARED_EXPERTS = {
    "Afmoe": EXPERTS | {"num_experts": 4, "num_local_experts": 4, "num_dense_layers": 1, "num_shared_experts": 1},
    "Beam": ROUTED | {"num_experts": 4},
    "Cohere2Moe": EXPERTS | {"num_experts": 4, "num_shared_experts": 1, "first_k_dense_replace": 1},
    "DeepseekV2": ROUTED | LATENT,
    "DeepseekV3": ROUTED | LATENT,
    "DeepseekV32": ROUTED | INDEXED,
    "Dots1": ROUTED | {"n_shared_experts": 1},
    "Ernie4_5_Moe": EXPERTS | {"moe_num_experts": 4, "moe_k": 2, "moe_layer_start_index": 1},
    "ExaoneMoe": EXPERTS | {"num_experts": 4, "n_group": 1, "topk_group": 1, "is_moe_layer": [False, True]},
    "Glm4Moe": ROUTED,
    "Glm4MoeLite": ROUTED | LATENT,
    "GlmMoeDsa": ROUTED | INDEXED,
    "HunYuanMoEV1": EXPERTS | {"num_experts": 4, "moe_topk": 2},
    "LongcatFlash": ROUTED
    | LATENT
    | {"ffn_hidden_size": 48, "expert_ffn_hidden_size": 24, "zero_expert_num": 2, "moe_topk": 2, "num_layers": 1},
    "Qwen3Next": EXPERTS
    | {"num_experts": 4, "shared_expert_intermediate_size": 24, "layer_types": ["linear_attention", "full_attention"]}
    | {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8},
    "SolarOpen": ROUTED,
}


def with_shared_experts(name: str) -> nn.Module:
    if not hasattr(tf, f"{name}ForCausalLM"):
        pytest.skip(f"this version of transformers has no {name}")
    torch.manual_seed(0)
    config = getattr(tf, f"{name}Config")(**SHARED_EXPERTS[name])
    config._experts_implementation = "eager"  # the others have no float64
    return getattr(tf, f"{name}ForCausalLM")(config).double().eval()


def adapted(base: nn.Module, targets: object = "all-linear", **options: object) -> nn.Module:
    options |= {"init_weights": False, "dropout": 0.1, "task_type": "CAUSAL_LM"}
    config = TTLoraConfig(tt_rank=2, target_modules=targets, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the experts themselves are parameters
        return get_peft_model(base, config).eval()


@pytest.mark.parametrize("name", SHARED_EXPERTS)
def test_plain_peft_computes_the_same_where_it_takes_modules_for_experts(name: str, tmp_path: Path) -> None:
    model = adapted(with_shared_experts(name))
    trained = logits(model)
    with model.disable_adapter():
        assert (trained - logits(model)).abs().max() > 0.01
    export_lora(model, tmp_path)
    config = LoraConfig.from_pretrained(tmp_path)
    moved = {parameter.removesuffix(".weight") for parameter in config.target_parameters}
    last = {target.rpartition(".")[2] for target in moved} - {"gate"}
    fused = {"gate_up_proj"} if model.peft_config["default"].target_parameters else set()  # of the experts themselves
    assert last == {"gate_proj", "up_proj", "down_proj"} | fused
    assert moved.isdisjoint(config.target_modules)
    assert config.lora_dropout == 0
    loaded = PeftModel.from_pretrained(with_shared_experts(name), tmp_path).eval()
    torch.testing.assert_close(logits(loaded), trained, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("targets", [["o_proj", "up_proj"], r".*shared_experts\.(up|down|gate)_proj", ["o_proj"]])
def test_other_choices_of_targets(targets: object, tmp_path: Path) -> None:
    trained = logits(model := adapted(with_shared_experts("DeepseekV3"), targets))
    export_lora(model, tmp_path)
    assert bool(LoraConfig.from_pretrained(tmp_path).target_parameters) == (targets != ["o_proj"])
    loaded = PeftModel.from_pretrained(with_shared_experts("DeepseekV3"), tmp_path).eval()
    torch.testing.assert_close(logits(loaded), trained, rtol=1e-5, atol=1e-5)
    by_transformers = with_shared_experts("DeepseekV3")
    by_transformers.load_adapter(str(tmp_path))
    torch.testing.assert_close(logits(by_transformers), trained, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_process_without_this_package_computes_the_same(tmp_path: Path) -> None:
    base = with_shared_experts("DeepseekV3").float()
    base.save_pretrained(tmp_path / "base")
    base.name_or_path = str(tmp_path / "base")
    trained = logits(model := adapted(base))
    export_lora(model, tmp_path / "lora")
    found = logits_without_this_package(tmp_path / "lora")
    torch.testing.assert_close(found, trained, rtol=1e-5, atol=1e-5)


def test_weights_targeted_as_parameters_are_read_and_compressed(tmp_path: Path) -> None:
    ranks = {"rank_pattern": {"shared_experts.up_proj": {"tt_rank": 1}}}
    trained = logits(model := adapted(with_shared_experts("DeepseekV3"), ["q_b_proj", "up_proj"], **ranks))
    report = export_lora(model, tmp_path / "lora", pad_to=None)
    assert {module.rank for module in report.modules} == {1, 2}
    for name, (left, right) in lora_factors(tmp_path / "lora").items():
        delta = model.get_base_model().get_submodule(name).get_delta_weight("default")
        torch.testing.assert_close((left @ right).T.double(), delta, rtol=1e-5, atol=1e-6)
    write_lora(tmp_path / "again", read_lora(tmp_path / "lora"))
    loaded = PeftModel.from_pretrained(with_shared_experts("DeepseekV3"), tmp_path / "again").eval()
    torch.testing.assert_close(logits(loaded), trained, rtol=1e-5, atol=1e-5)
    compress_lora(tmp_path / "lora", tmp_path / "small")
    small = PeftModel.from_pretrained(with_shared_experts("DeepseekV3"), tmp_path / "small").eval()
    torch.testing.assert_close(logits(small), trained, rtol=1e-4, atol=1e-4)


def test_parameters_that_hold_several_matrices_are_no_plain_lora(tmp_path: Path) -> None:
    config = LoraConfig(target_modules=["q_proj"], target_parameters=["experts.down_proj"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        get_peft_model(models.qwen3_moe(), config).save_pretrained(tmp_path)
    with pytest.raises(TTTypeError, match=r"was made with target_parameters=\['experts.down_proj'\]"):
        lora_factors(tmp_path)


def test_names_that_are_the_ends_of_others(tmp_path: Path) -> None:
    def make() -> nn.Module:
        torch.manual_seed(0)
        inner, outer = (nn.ModuleDict({"q": nn.Linear(6, 6)}) for _ in range(2))
        return nn.ModuleDict({"layer": inner, "decoder": nn.ModuleDict({"layer": outer})})

    model = get_peft_model(make(), LotrConfig(target_modules=r"layer\.q", init_weights=False))
    export_lora(model, tmp_path)
    assert LoraConfig.from_pretrained(tmp_path).exclude_modules == {"decoder.layer.q"}
    assert PeftModel.from_pretrained(make(), tmp_path).base_model.targeted_module_names == ["layer.q"]


@pytest.fixture
def keys_are_renamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let PEFT rename keys of Llama's as it does for architectures whose layers are called otherwise now."""
    conversion_mapping.get_checkpoint_conversion_mapping("llama")  # fills the table
    table = conversion_mapping._checkpoint_conversion_mapping_cache
    monkeypatch.setitem(table, "llama", [WeightRenaming(r"\.q_proj\.", ".query.")])


@pytest.mark.usefixtures("keys_are_renamed")
def test_what_no_form_would_load_is_refused(tmp_path: Path) -> None:
    model = adapted(models.llama(), ["q_proj", "v_proj"])
    message = (
        r"PEFT 0\.\d+\.\d+ does not load this export as it is meant: it finds no place for "
        r"'base_model.model.model.layers.0.self_attn.query.lora_A.weight', .* and 1 more; it computes something else "
        r"in 'model.layers.0.self_attn.q_proj', 'model.layers.1.self_attn.q_proj'. Merge the adapter .* `verify=False`"
    )
    with pytest.raises(TTTypeError, match=message):
        export_lora(model, tmp_path / "lora")
    assert not (tmp_path / "lora").exists()
    export_lora(model, tmp_path / "lora", verify=False)
    assert len(lora_factors(tmp_path / "lora")) == 4


def test_what_peft_refuses_is_told_in_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted(models.llama(), ["q_proj"])
    monkeypatch.setattr(
        "peft.tuners.lora.model.LoraModel._create_and_replace", lambda *a, **k: (_ for _ in ()).throw(ValueError("No."))
    )
    with pytest.raises(TTTypeError, match=r"as it is meant: it stops with 'No.'. Merge"):
        export_lora(model, tmp_path / "lora")


def test_every_kind_of_fault_is_found() -> None:
    base = models.llama()
    factors = {f"model.layers.{k}.self_attn.v_proj": (torch.randn(32, 2), torch.randn(2, 16)) for k in (0, 1)}

    def faults(**changes: object) -> list[str]:
        fields = {"config": LoraConfig(target_modules=["v_proj"]), "factors": factors} | changes
        return loading_faults(skeleton(base), LoraCheckpoint(**fields))

    assert faults() == []
    first, second = factors
    assert faults(config=LoraConfig(target_modules=[first]))[0] == f"it leaves alone {second!r}"
    assert faults(config=LoraConfig(target_modules=["v_proj", "k_proj"])) == [
        "it adapts 'model.layers.0.self_attn.k_proj', 'model.layers.1.self_attn.k_proj'"
    ]
    assert faults(others={"base_model.model.lm_heat.weight": torch.ones(1)}) == [
        "it finds no place for 'base_model.model.lm_heat.weight'"
    ]
    wide = {name: (left, torch.randn(2, 17)) for name, (left, _) in factors.items()}
    assert "size mismatch" in faults(factors=wide)[0]


def test_a_skeleton_takes_no_memory_and_leaves_the_model_alone() -> None:
    config = LotrConfig(target_modules=["query", "dense"], task_type="SEQ_CLS", train_norms=True)
    model = perturb(get_peft_model(models.bert(), config))
    state = {key: (id(tensor), tensor.clone()) for key, tensor in model.state_dict(keep_vars=True).items()}
    before = logits(model)
    bare = skeleton(model.get_base_model())
    for tensor in (*bare.parameters(), *bare.buffers()):
        assert tensor.is_meta or tensor.untyped_storage().nbytes() <= 8
    plain = models.bert()
    shapes = {name: tensor.shape for name, tensor in plain.state_dict().items()}
    assert {name: tensor.shape for name, tensor in bare.state_dict().items()} == shapes
    assert [(n, type(m)) for n, m in bare.named_modules()] == [(n, type(m)) for n, m in plain.named_modules()]
    get_peft_model(bare, LoraConfig(target_modules=["query"]))
    after = model.state_dict(keep_vars=True)
    assert {key: id(tensor) for key, tensor in after.items()} == {key: place for key, (place, _) in state.items()}
    assert all(torch.equal(after[key], tensor) for key, (_, tensor) in state.items())
    assert torch.equal(logits(model), before)


def test_layers_whose_weights_are_trains_are_exported_for_ordinary_ones(tmp_path: Path) -> None:
    def make(dense: bool) -> nn.Module:
        torch.manual_seed(0)
        embedding, linear = TTEmbedding(12, 8, ranks=2), TTLinear(8, 6, ranks=2)
        layers = (embedding, linear)
        return nn.Sequential(*(layer.to_dense() for layer in layers) if dense else layers)

    model = get_peft_model(make(dense=False), TTLoraConfig(tt_rank=2, target_modules=["0", "1"], init_weights=False))
    x = torch.arange(12)
    with torch.no_grad():
        expected = model(x)
    export_lora(model, tmp_path)
    loaded = PeftModel.from_pretrained(make(dense=True), tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), expected, rtol=1e-5, atol=1e-5)


def test_a_compiled_model(tmp_path: Path) -> None:
    model = adapted(models.llama(), ["q_proj"])
    trained = logits(model)
    export_lora(torch.compile(model), tmp_path)
    loaded = PeftModel.from_pretrained(models.llama(), tmp_path).eval()
    torch.testing.assert_close(logits(loaded), trained, rtol=1e-5, atol=1e-5)
