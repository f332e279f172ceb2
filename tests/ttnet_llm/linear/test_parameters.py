"""Experts that are held as parameters, adapted as one train: on four architectures, however their products are run."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers as tf
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from tests.ttnet_llm import models
from tests.ttnet_llm.models import logits, perturb
from ttnet.errors import TTTypeError, TTValueError
from ttnet_llm import LorettaRepConfig, TTLoraConfig, hold_factors
from ttnet_llm.budget import count_parameters
from ttnet_llm.linear import LinearConfig
from ttnet_llm.linear.parameter import ParameterLayer
from ttnet_llm.tuner.scaling import rescale_adapter_scale

Build = Callable[[], nn.Module]
EXPERTS = ["experts.gate_up_proj", "experts.down_proj"]
# Llama 4 has one way of its own to run its experts.
CASES = [(build, way) for build in models.WITH_EXPERTS for way in ("eager", "grouped_mm", "batched_mm")]
CASES = [(build, way) for build, way in CASES if build is not models.llama4 or way == "eager"]
each_case = pytest.mark.parametrize(("build", "way"), CASES)
each_config = pytest.mark.parametrize("config_cls", [TTLoraConfig, LorettaRepConfig])
each_model = pytest.mark.parametrize("build", models.WITH_EXPERTS)


def base_model(build: Build, way: str = "grouped_mm") -> nn.Module:
    model = build()
    if build is not models.llama4:
        model.set_experts_implementation(way)
    return model


def on_experts(config_cls: type[LinearConfig], **options: object) -> LinearConfig:
    fields = {"tt_rank": 3, "target_modules": ["q_proj"], "target_parameters": EXPERTS, "task_type": "CAUSAL_LM"}
    return config_cls(**(fields | options))


def layers_of(model: nn.Module) -> list[ParameterLayer]:
    return [module for module in model.modules() if isinstance(module, ParameterLayer)]


def loss(model: nn.Module) -> Tensor:
    return model(input_ids=models.IDS, labels=models.IDS).loss


@each_config
@each_case
def test_starts_as_the_identity_trains_switches_and_merges(build: Build, way: str, config_cls: type) -> None:
    base = base_model(build, way)
    before = logits(base)
    model = get_peft_model(base, on_experts(config_cls))
    assert torch.equal(logits(model), before)  # bit for bit

    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.5)
    for _ in range(3):  # the first core is zero, and the others learn once it is not
        optimizer.zero_grad()
        loss(model.train()).backward()
        optimizer.step()
    for layer in layers_of(model):
        assert all(p.grad is not None and bool((p.grad != 0).any()) for p in layer.parameters())
    assert not torch.equal(logits(model.eval()), before)

    adapted = logits(perturb(model, spread=0.1))
    assert float((adapted - before).abs().max()) > 0.01
    with model.disable_adapter():
        assert torch.equal(logits(model), before)
    model.merge_adapter()
    torch.testing.assert_close(logits(model), adapted, rtol=0, atol=1e-5)
    model.unmerge_adapter()
    torch.testing.assert_close(logits(model), adapted, rtol=0, atol=1e-5)
    merged = model.merge_and_unload()
    torch.testing.assert_close(logits(merged), adapted, rtol=0, atol=1e-5)
    assert [name for name, _ in merged.named_parameters()] == [name for name, _ in build().named_parameters()]


@each_config
@each_model
def test_all_ways_to_run_experts_give_the_same(build: Build, config_cls: type) -> None:
    ways = [way for case, way in CASES if case is build]
    found = [logits(perturb(get_peft_model(base_model(build, way), on_experts(config_cls)))) for way in ways]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=1e-5)


@each_config
@each_model
def test_saved_adapter_loads_into_a_fresh_model(build: Build, config_cls: type, tmp_path: Path) -> None:
    model = perturb(get_peft_model(base_model(build), on_experts(config_cls, target_modules="all-linear"))).eval()
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base_model(build), tmp_path).eval()
    assert torch.equal(logits(loaded), logits(model))
    lean = PeftModel.from_pretrained(base_model(build), tmp_path, low_cpu_mem_usage=True).eval()
    torch.testing.assert_close(logits(lean), logits(model), rtol=0, atol=1e-5)


def test_transformers_own_calls_save_and_load_it(tmp_path: Path) -> None:
    base = models.mixtral()
    base.add_adapter(on_experts(TTLoraConfig), "mine")
    perturb(base).save_pretrained(tmp_path)
    other = models.mixtral()
    other.load_adapter(str(tmp_path), "loaded")
    assert torch.equal(logits(other), logits(base))


# By hand: modes of inputs, the 4 experts, modes of outputs, in each of 2 layers.
MODES = {"32x96": [[4, 8], [8, 12]], "48x32": [[6, 8], [4, 8]]}
GATE_UP = (4 * 3 + 3 * 8 * 3) + 3 * 4 * 3 + (3 * 8 * 3 + 3 * 12)
DOWN = (6 * 3 + 3 * 8 * 3) + 3 * 4 * 3 + (3 * 4 * 3 + 3 * 8)
THIN = {"32x8": [[4, 8], [8]], "8x96": [[8], [8, 12]], "48x8": [[6, 8], [8]], "8x32": [[8], [4, 8]]}
A = (4 * 3 + 3 * 8 * 3 + 3 * 8) + (6 * 3 + 3 * 8 * 3 + 3 * 8)
B = (8 * 3 + 3 * 4 * 3 + 3 * 8 * 3 + 3 * 12) + (8 * 3 + 3 * 4 * 3 + 3 * 4 * 3 + 3 * 8)


@pytest.mark.parametrize("build", [models.mixtral, models.gpt_oss, models.llama4])
@pytest.mark.parametrize(
    ("config_cls", "modes", "count"), [(TTLoraConfig, MODES, GATE_UP + DOWN), (LorettaRepConfig, THIN, A + B)]
)
def test_counts(build: Build, config_cls: type, modes: dict[str, object], count: int) -> None:
    config = on_experts(config_cls, modes=modes, target_modules=[])
    assert get_peft_model(build(), config).get_nb_trainable_parameters()[0] == 2 * count
    assert count_parameters(build(), on_experts(config_cls, modes=modes, target_modules=[])).trainable == 2 * count


@pytest.mark.parametrize(
    ("config", "counts"),
    [
        (tf.MixtralConfig(), (104_857_600, 81_600, 86_720)),
        (
            tf.Qwen3MoeConfig(hidden_size=2048, moe_intermediate_size=768, num_hidden_layers=48, num_experts=128),
            (314_572_800, 384_960, 392_640),
        ),
        (tf.GptOssConfig(num_local_experts=32, num_hidden_layers=24), (88_473_600, 82_800, 86_640)),
    ],
    ids=["Mixtral 8x7B", "Qwen3-30B-A3B", "gpt-oss-20b"],
)
def test_counts_of_the_documentation(config: tf.PretrainedConfig, counts: tuple[int, ...]) -> None:
    fields = {"target_modules": [], "target_parameters": EXPERTS}
    configs = LoraConfig(**fields), TTLoraConfig(**fields), LorettaRepConfig(**fields)
    assert tuple(count_parameters(config, each).trainable for each in configs) == counts


def test_all_linear_adapts_experts_and_leaves_routers_alone() -> None:
    model = get_peft_model(models.qwen3_moe(), TTLoraConfig(target_modules="all-linear"))
    config = model.peft_config["default"]
    assert config.target_parameters == ["mlp.experts.down_proj", "mlp.experts.gate_up_proj"]
    assert all("mlp.gate" not in name for name, p in model.named_parameters() if p.requires_grad)
    assert len(model.base_model.targeted_parameter_names) == 4
    alone = get_peft_model(
        models.qwen3_moe(),
        TTLoraConfig(target_modules="all-linear", layers_to_transform=[1], exclude_modules=["gate_up_proj"]),
    )
    assert alone.base_model.targeted_parameter_names == ["model.layers.1.mlp.experts.down_proj"]


@pytest.mark.parametrize(("build", "name"), [(models.mixtral, "gate.weight"), (models.gpt_oss, "router.weight")])
def test_a_router_that_is_named(build: Build, name: str) -> None:
    base = build()
    before = logits(base)
    model = get_peft_model(base, TTLoraConfig(tt_rank=2, target_modules=[], target_parameters=[name]))
    assert torch.equal(logits(model), before)
    adapted = logits(perturb(model, spread=1.0))
    assert not torch.equal(adapted, before)
    torch.testing.assert_close(logits(model.merge_and_unload()), adapted, rtol=0, atol=1e-5)


def test_adapters_on_different_parameters_are_kept_apart(tmp_path: Path) -> None:
    model = get_peft_model(models.mixtral(), on_experts(TTLoraConfig), adapter_name="one")
    one = logits(perturb(model))
    # "down_proj" is the name of no module, also where a parameter's layer has it.
    second = on_experts(TTLoraConfig, target_modules=["v_proj"], target_parameters=EXPERTS[1:], tt_rank=2)
    model.add_adapter("two", second)
    model.set_adapter("two")
    two = logits(perturb(model, seed=1))
    with pytest.warns(UserWarning, match="target_modules has 'down_proj', which match nothing"):
        model.add_adapter("three", TTLoraConfig(target_modules=["down_proj", "k_proj"], target_parameters=[]))
    model.set_adapter("one")
    assert torch.equal(logits(model), one)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(models.mixtral(), tmp_path / "two", adapter_name="two")
    assert torch.equal(logits(loaded), two)
    loaded.load_adapter(tmp_path / "one", "one")
    loaded.set_adapter("one")
    assert torch.equal(logits(loaded), one)

    loaded.base_model.set_adapter(["one", "two"])
    both = logits(loaded)
    loaded.merge_adapter()
    torch.testing.assert_close(logits(loaded), both, rtol=0, atol=1e-5)
    loaded.unmerge_adapter()
    loaded.delete_adapter("one")
    torch.testing.assert_close(logits(loaded), two, rtol=0, atol=1e-5)
    assert loaded.get_model_status().available_adapters == ["two"]


def test_ranks_and_factors_of_single_parameters() -> None:
    ranks = {"gate_up_proj": 2, r"1\.mlp\.experts\.down_proj": 4}
    config = on_experts(TTLoraConfig, rank_pattern=ranks, alpha_pattern={"down_proj": 9.0})
    model = get_peft_model(models.mixtral(), config)
    found = [layer.thin_factors("default")[1].shape[1:] for layer in layers_of(model)]
    assert found == [(2, 2), (3, 3), (2, 2), (4, 4)]
    assert [layer.scalings["default"] for layer in layers_of(model)] == [4, 9.0, 4, 9.0]


@each_config
@pytest.mark.parametrize("start", [False, "gaussian", "tt_svd"])
def test_other_starts(config_cls: type, start: object) -> None:
    base = models.gpt_oss()
    before = logits(base)
    model = get_peft_model(base, on_experts(config_cls, init_weights=start))
    changed = float((logits(model) - before).abs().max())
    assert changed < 1e-5 if start == "tt_svd" else changed > 0.05
    adapted = logits(perturb(model))
    torch.testing.assert_close(logits(model.merge_and_unload()), adapted, rtol=0, atol=1e-5)


def test_half_precision_keeps_its_dtype_and_the_identity() -> None:
    base = models.mixtral().bfloat16()
    before = logits(base)
    model = get_peft_model(base, on_experts(TTLoraConfig))
    assert torch.equal(logits(model), before)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    adapted = logits(perturb(model))
    assert adapted.dtype == torch.bfloat16
    model.merge_adapter()
    torch.testing.assert_close(logits(model), adapted, rtol=0.05, atol=0.05)
    model.unmerge_adapter()
    with torch.autocast("cpu", torch.bfloat16):
        loss(model.train()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_safe_merging_gives_back_every_bit() -> None:
    base = models.mixtral()
    weight = base.model.layers[0].mlp.experts.down_proj.detach().clone()
    model = perturb(get_peft_model(base, on_experts(TTLoraConfig)))
    model.merge_adapter(safe_merge=True)
    assert not torch.equal(base.model.layers[0].mlp.experts.base_layer.down_proj, weight)
    model.unmerge_adapter()
    assert torch.equal(base.model.layers[0].mlp.experts.base_layer.down_proj, weight)


def test_experts_that_layers_share_come_apart_in_merging() -> None:
    base = models.mixtral()
    first, second = (layer.mlp.experts for layer in base.model.layers)
    second.down_proj = first.down_proj
    config = on_experts(TTLoraConfig, target_modules=[], target_parameters=["0.mlp.experts.down_proj"])
    model = perturb(get_peft_model(base, config)).eval()
    adapted = logits(model)
    model.merge_adapter()
    assert second.down_proj is not first.down_proj
    torch.testing.assert_close(logits(model), adapted, rtol=0, atol=1e-5)
    model.unmerge_adapter()
    assert second.down_proj is first.down_proj
    assert torch.equal(logits(model), adapted)


def test_held_factors_copies_and_scales() -> None:
    model = perturb(get_peft_model(models.mixtral(), on_experts(LorettaRepConfig))).eval()
    adapted = logits(model)
    twin = copy.deepcopy(model)
    hold_factors(model)
    torch.testing.assert_close(logits(model), adapted, rtol=0, atol=1e-5)
    with rescale_adapter_scale(model, 0.0):
        assert torch.equal(logits(model), logits(models.mixtral()))
    perturb(model, seed=5)
    assert torch.equal(logits(twin), adapted)


def test_dropout_and_checkpointed_activations() -> None:
    model = perturb(get_peft_model(models.mixtral(), on_experts(TTLoraConfig, dropout=0.5)))
    assert not torch.equal(logits(model.train()), logits(model))
    assert torch.equal(logits(model.eval()), logits(model))

    model = perturb(get_peft_model(models.mixtral(), on_experts(TTLoraConfig))).train()
    loss(model).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    loss(model).backward()
    for name, gradient in expected.items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient)


def test_offloaded_experts() -> None:
    from accelerate import cpu_offload

    model = perturb(get_peft_model(models.mixtral(), on_experts(TTLoraConfig))).eval()
    adapted = logits(model)
    cpu_offload(model, execution_device=torch.device("cpu"))
    torch.testing.assert_close(logits(model), adapted, rtol=0, atol=1e-5)
    assert layers_of(model)[0].parameter.is_meta
    model.merge_adapter()
    torch.testing.assert_close(logits(model), adapted, rtol=0, atol=1e-5)


@pytest.mark.slow  # compiles
def test_compiled_in_one_graph() -> None:
    model = perturb(get_peft_model(base_model(models.mixtral), on_experts(TTLoraConfig))).eval()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(logits(compiled), logits(model), rtol=0, atol=1e-5)


def test_no_update_is_formed_and_a_forward_pass_that_fails_leaves_nothing_behind() -> None:
    model = get_peft_model(models.mixtral(), on_experts(TTLoraConfig))
    experts = model.base_model.model.model.layers[0].mlp.experts
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        loss(model.train())
    stored = {p.data_ptr() for p in model.parameters()}
    stacks = [t for t in saved if t.ndim == 3 and set(t.shape[1:]) in ({96, 32}, {32, 48})]
    assert stacks
    assert all(t.data_ptr() in stored for t in stacks)
    with pytest.raises(AttributeError):
        experts(None, None, None)
    assert isinstance(experts.base_layer.down_proj, nn.Parameter)
    assert experts.num_experts == 4  # what it does not have it asks of the module
    with pytest.raises(AttributeError, match="down_proj is read from outside of the MixtralExperts"):
        _ = experts.down_proj
    with pytest.raises(AttributeError, match="no attribute 'something'"):
        _ = experts.something


def test_rows_with_adapters_of_their_own_are_refused() -> None:
    model = get_peft_model(models.mixtral(), on_experts(TTLoraConfig)).eval()
    with pytest.raises(TTValueError, match="an adapter is on experts, which see the tokens of all rows together"):
        logits(model, adapter_names=["default"] * 3)


def test_sums_of_adapters_are_refused() -> None:
    model = get_peft_model(models.mixtral(), on_experts(TTLoraConfig))
    with pytest.raises(TTTypeError, match="trains over experts are not added up"):
        model.add_weighted_adapter(["default"], [0.5], "half")


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        (["q_proj.weight"], TTValueError, "a parameter of model.layers.0.self_attn.q_proj, a Linear; name that in"),
        (["input_layernorm.weight"], TTTypeError, r"weight of a MixtralRMSNorm, a Tensor of shape \(32,\)"),
    ],
)
def test_parameters_that_are_refused(names: list[str], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        get_peft_model(models.mixtral(), TTLoraConfig(target_modules=[], target_parameters=names))


def test_two_methods_on_parameters_of_one_module_are_refused() -> None:
    model = models.mixtral()
    model.add_adapter(on_experts(TTLoraConfig, target_parameters=EXPERTS[:1]), "one")
    with pytest.raises(TTValueError, match=r"mlp\.experts\.down_proj, and tt_lora adapts parameters of that module"):
        model.add_adapter(on_experts(LorettaRepConfig, target_parameters=EXPERTS[1:]), "two")
    model.add_adapter(LorettaRepConfig(target_modules=["v_proj"]), "three")  # beside them
    logits(model)


def test_adapters_inside_of_each_other_are_refused() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4)))
    model[0].table = nn.Parameter(torch.ones(4, 4))
    with pytest.raises(TTValueError, match="a parameter of 0, and a TTLoraLinear is around it or inside of it"):
        get_peft_model(model, TTLoraConfig(target_modules=["0.0"], target_parameters=["0.table"]))


def test_a_parameter_of_the_model_itself_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    model.table = nn.Parameter(torch.ones(4, 4))
    with pytest.raises(TTValueError, match="a parameter of the model itself"):
        get_peft_model(model, TTLoraConfig(target_modules=[], target_parameters=["table"]))


def test_numbers_of_eight_bits_are_refused_and_no_part_of_all_linear() -> None:
    base = models.mixtral()
    for layer in base.model.layers:
        experts = layer.mlp.experts
        experts.down_proj = nn.Parameter(experts.down_proj.detach().to(torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(TTTypeError, match=r"a Tensor of shape .* and torch\.float8_e4m3fn"):
        get_peft_model(copy.deepcopy(base), on_experts(TTLoraConfig))
    with pytest.warns(UserWarning, match=r"mlp\.experts\.down_proj, which .*: they are quantised, so that no update"):
        model = get_peft_model(base, TTLoraConfig(target_modules="all-linear"))
    assert model.peft_config["default"].target_parameters == ["mlp.experts.gate_up_proj"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "interleaved"}, "layout is 'interleaved', whose cores have no place for a mode of experts"),
        ({"modes": "paper"}, "modes is 'paper', whose tables have no mode for experts"),
        ({"init_weights": "lora", "lora_path": "x"}, "init_weights is 'lora', which starts linear layers only"),
        ({"target_parameters": "experts"}, "target_parameters is 'experts'; expected a list of names"),
    ],
)
def test_configs_that_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(TTValueError, match=message):
        on_experts(LorettaRepConfig, **options)
