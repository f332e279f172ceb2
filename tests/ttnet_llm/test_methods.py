"""What both LoRETTA methods promise a PEFT user, on every architecture: identity, formulas, files, switching."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForSequenceClassification, PeftConfig, PeftModel, get_peft_model
from peft.utils.error import NoMatchingPeftModuleError
from safetensors.torch import load_file
from torch import nn
from transformers.activations import ACT2FN
from transformers.pytorch_utils import Conv1D

from tests.ttnet_llm import models
from tests.ttnet_llm.methods import Method, each
from tests.ttnet_llm.models import IDS, logits, perturb
from ttnet.errors import TTTypeError, TTValueError
from ttnet_llm import LorettaAdpConfig, LorettaRepConfig


def assert_same_adapter(loaded: nn.Module, trained: torch.Tensor, model: nn.Module, method: str) -> None:
    """Compare where loading assigns the file's tensors as they lie in it.

    Their entries are the same to the bit. They need not be aligned in memory, though, and a BLAS may add up the
    same numbers in another order then.
    """
    theirs = {n: p for n, p in loaded.named_parameters() if f"{method}_network" in n}
    ours = {n: p for n, p in model.named_parameters() if f"{method}_network" in n}
    prefix = "" if theirs.keys() == ours.keys() else "base_model.model."
    for name, parameter in theirs.items():
        assert torch.equal(parameter, ours[prefix + name])
    torch.testing.assert_close(logits(loaded), trained, rtol=1e-5, atol=1e-6)


each_method = each()
each_merging = each("merges")
each_with_trains = each("has_trains")
each_model = pytest.mark.parametrize("make", models.ALL)


@each_method
@each_model
def test_starts_as_the_identity_bit_for_bit(make: Callable[[], nn.Module], config_cls: Method) -> None:
    base = make()
    expected = logits(base)
    assert torch.equal(logits(get_peft_model(base, config_cls())), expected)


@each_method
@each_model
def test_trained_adapter_survives_saving(make: Callable[[], nn.Module], config_cls: Method, tmp_path: Path) -> None:
    base = make()
    expected = logits(base)
    model = perturb(get_peft_model(base, config_cls()))
    trained = logits(model)
    assert not torch.allclose(trained, expected)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(make(), tmp_path).eval()
    assert torch.equal(logits(loaded), trained)
    assert isinstance(PeftConfig.from_pretrained(tmp_path), config_cls.config_cls)
    with model.disable_adapter():
        assert torch.equal(logits(model), expected)
    assert torch.equal(logits(model.unload()), expected)


@each_merging
@each_model
def test_merging_is_the_forward_pass(make: Callable[[], nn.Module], config_cls: Method) -> None:
    base = make()
    expected = logits(base)
    model = perturb(get_peft_model(base, config_cls()), spread=0.1)
    trained = logits(model)
    model.merge_adapter()
    torch.testing.assert_close(logits(model), trained, rtol=1e-4, atol=1e-4)
    model.unmerge_adapter()
    torch.testing.assert_close(logits(model), trained, rtol=1e-4, atol=1e-4)
    merged = model.merge_and_unload(safe_merge=True)
    torch.testing.assert_close(logits(merged), trained, rtol=1e-4, atol=1e-4)
    # What was merged is far more than what was rounded.
    assert (trained - expected).abs().max() > 100 * (logits(merged) - trained).abs().max()


@pytest.mark.parametrize("layer", [nn.Linear(12, 20), nn.Linear(20, 12), Conv1D(20, 12), Conv1D(12, 20)])
@pytest.mark.parametrize("r", [1, 4, 30])
def test_rep_is_its_dense_formula(layer: nn.Module, r: int) -> None:
    """base(x) + (alpha / r) x A B, with A and B formed from their cores."""
    base = nn.Sequential(copy.deepcopy(layer)).double()
    model = get_peft_model(base, LorettaRepConfig(target_modules=["0"], r=r, tt_rank=3, alpha=6, init_weights=False))
    adapted = model.base_model.model[0]
    network = adapted.networks["default"]
    a_left, a_right = network.A.factors()
    b_left, b_right = network.B.factors()
    delta = 6 / r * (a_left @ a_right) @ (b_left @ b_right).T
    x = torch.randn(2, 3, adapted.in_features, dtype=torch.float64)
    expected = adapted.base_layer(x) + x @ delta
    torch.testing.assert_close(model(x), expected)
    stored = adapted.get_delta_weight("default")
    torch.testing.assert_close(stored if isinstance(layer, Conv1D) else stored.T, delta)


@pytest.mark.parametrize("position", ["input", "output"])
@pytest.mark.parametrize("activation", ["relu", "gelu_new", "tanh", "silu"])
def test_adp_is_its_dense_formula(position: str, activation: str) -> None:
    """h + scaling * (act(h D + b) U + c) on the layer's input or output."""
    base = nn.Sequential(nn.Linear(12, 20)).double()
    options = {"bottleneck": 6, "tt_rank": 3, "scaling": 0.7, "init_weights": False}
    config = LorettaAdpConfig(target_modules=["0"], position=position, non_linearity=activation, **options)
    model = perturb(get_peft_model(base, config), spread=0.1)
    adapted = model.base_model.model[0]
    network = adapted.networks["default"]
    d_left, d_right = network.down.factors()
    u_left, u_right = network.up.factors()

    def adapter(h: torch.Tensor) -> torch.Tensor:
        z = ACT2FN[activation](h @ (d_left @ d_right) + network.down_bias)
        return h + 0.7 * (z @ (u_left @ u_right).T + network.up_bias)

    x = torch.randn(2, 3, 12, dtype=torch.float64)
    expected = adapted.base_layer(adapter(x)) if position == "input" else adapter(adapted.base_layer(x))
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize(("shape", "size"), [((8, 12), 8), ((12, 8), 8), ((8, 8), 8)])
def test_adp_sits_where_the_layer_is_narrower(shape: tuple[int, int], size: int) -> None:
    model = get_peft_model(nn.Sequential(nn.Linear(*shape)), LorettaAdpConfig(target_modules=["0"]))
    network = model.base_model.model[0].networks["default"]
    assert network.up_bias.shape == (size,)
    assert network.on_input == (shape[0] < shape[1])


@each_method
def test_gradients_match_finite_differences(config_cls: Method) -> None:
    torch.manual_seed(0)
    config = config_cls(target_modules=["0"], init_weights=False)
    if not config_cls.merges:
        config.bottleneck, config.non_linearity = 3, "tanh"
    model = get_peft_model(nn.Sequential(nn.Linear(6, 4)).double(), config)
    names, parameters = zip(*((n, p) for n, p in model.named_parameters() if p.requires_grad), strict=True)
    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)

    def forward(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(forward, (x, *parameters))


@each_method
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_adapters_are_float32_under_a_half_precision_base(config_cls: Method, dtype: torch.dtype) -> None:
    base = models.bert().to(dtype)
    expected = logits(base)
    model = get_peft_model(copy.deepcopy(base), config_cls())
    adapter = {p.dtype for n, p in model.named_parameters() if config_cls.method in n}
    assert adapter == {torch.float32}
    assert torch.equal(logits(model), expected)
    assert logits(perturb(model)).dtype == dtype
    same = get_peft_model(copy.deepcopy(base), config_cls(), autocast_adapter_dtype=False)
    assert {p.dtype for n, p in same.named_parameters() if config_cls.method in n} == {dtype}
    assert torch.equal(logits(same), expected)
    native = copy.deepcopy(base)
    native.add_adapter(config_cls())
    assert {p.dtype for n, p in native.named_parameters() if config_cls.method in n} == {torch.float32}


@each_method
def test_only_the_adapter_is_trainable(config_cls: Method) -> None:
    """The base model stays frozen, also on OPT, whose authors' adapters trained all of it."""
    model = get_peft_model(models.opt(), config_cls())
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trainable
    assert all(f"{config_cls.method}_network" in name for name in trainable)


@each_method
def test_norms_are_trained_saved_and_restored(config_cls: Method, tmp_path: Path) -> None:
    model = get_peft_model(models.llama(), config_cls(train_norms=True, task_type="CAUSAL_LM"))
    norms = [n for n, p in model.named_parameters() if p.requires_grad and config_cls.method not in n]
    assert len(norms) == 5  # two in each of two layers, and the last
    perturb(model)
    trained = logits(model)
    model.save_pretrained(tmp_path)
    assert sum("norm" in key for key in load_file(tmp_path / "adapter_model.safetensors")) == 5
    loaded = PeftModel.from_pretrained(models.llama(), tmp_path).eval()
    assert torch.equal(logits(loaded), trained)
    # A second adapter on the same model has norms of its own.
    loaded.load_adapter(tmp_path, "second")
    assert torch.equal(logits(loaded), trained)
    with loaded.disable_adapter():
        assert torch.equal(logits(loaded), logits(models.llama()))


@each_method
def test_adapters_can_be_added_switched_and_deleted(config_cls: Method) -> None:
    base = models.bert()
    expected = logits(base)
    model = perturb(get_peft_model(base, config_cls(), adapter_name="first"), seed=1)
    first = logits(model)
    model.add_adapter("second", config_cls())
    model.set_adapter("second")
    assert torch.equal(logits(model), expected)
    perturb(model, seed=2)
    second = logits(model)
    assert not torch.allclose(second, first)
    model.set_adapter("first")
    assert torch.equal(logits(model), first)
    model.delete_adapter("first")
    model.set_adapter("second")
    assert torch.equal(logits(model), second)


@each_method
def test_rows_of_a_batch_use_their_own_adapter(config_cls: Method) -> None:
    base = models.bert()
    expected = logits(base)
    model = perturb(get_peft_model(base, config_cls(), adapter_name="one"), seed=1).eval()
    model.add_adapter("two", config_cls(target_modules=["dense"]))
    first = logits(model)
    model.set_adapter("two")
    second = logits(perturb(model, seed=2))
    mixed = logits(model, adapter_names=["one", "__base__", "two"])
    torch.testing.assert_close(mixed, torch.stack([first[0], expected[1], second[2]]), rtol=1e-4, atol=1e-5)
    with pytest.raises(TTValueError, match=r"non-existing adapter\(s\): three"):
        logits(model, adapter_names=["one", "two", "three"])
    with pytest.raises(TTValueError, match="Length of `adapter_names`"):
        logits(model, adapter_names=["one"])
    with pytest.raises(TTValueError, match="in training mode"):
        logits(model.train(), adapter_names=["one", "two", "one"])


@each_method
@pytest.mark.parametrize("make", [models.gpt2, models.t5])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_rows_generate_with_their_own_adapter(
    make: Callable[[], nn.Module], config_cls: Method, num_beams: int
) -> None:
    """Also under beam search, which repeats the rows of the decoder but not those of an encoder."""
    options = {"max_new_tokens": 5, "num_beams": num_beams, "do_sample": False, "pad_token_id": 0}
    model = perturb(get_peft_model(make(), config_cls(), adapter_name="one"), seed=1)
    model.add_adapter("two", config_cls())
    model.set_adapter("two")
    perturb(model, seed=2).eval()
    mixed = model.generate(input_ids=IDS, adapter_names=["one", "two", "one"], **options)
    for row, adapter in enumerate(["one", "two", "one"]):
        model.set_adapter(adapter)
        alone = model.generate(input_ids=IDS, **options)[row]
        shared = min(len(alone), mixed.shape[1])
        assert torch.equal(mixed[row, :shared], alone[:shared])


@each_method
@pytest.mark.parametrize("num_layers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_compiles_without_graph_breaks_and_copies(config_cls: Method, num_layers: int) -> None:
    model = perturb(get_peft_model(models.llama(num_hidden_layers=num_layers), config_cls()))
    expected = logits(model)
    torch.compiler.reset()  # or the methods before this one count as recompilations of it
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(logits(compiled), expected)
    assert_copies(model)


@each_method
def test_copies_compute_the_same(config_cls: Method) -> None:
    assert_copies(perturb(get_peft_model(models.llama(), config_cls())))


def assert_copies(model: nn.Module) -> None:
    expected = logits(model)
    assert torch.equal(logits(copy.deepcopy(model)), expected)
    assert torch.equal(logits(pickle.loads(pickle.dumps(model))), expected)


def test_rep_refuses_mixed_batches_while_merged() -> None:
    model = get_peft_model(models.bert(), LorettaRepConfig()).eval()
    model.merge_adapter()
    with pytest.raises(TTValueError, match="please call `unmerge_adapter` first"):
        logits(model, adapter_names=["default"] * 3)


@each_method
@pytest.mark.parametrize("targets", [["query", "dense"], r".*layer\.1\..*(query|value)", "all-linear"])
def test_targets_as_list_expression_and_all_linear(config_cls: Method, targets: list[str] | str) -> None:
    base = models.bert()
    expected = logits(base)
    model = get_peft_model(base, config_cls(target_modules=targets, task_type="SEQ_CLS"))
    assert torch.equal(logits(model), expected)
    layers = [name for name, module in model.named_modules() if isinstance(module, model.base_model.tuner_layer_cls)]
    ends = {name.rpartition(".")[2] for name in layers}
    if targets == "all-linear":
        assert ends == {"query", "key", "value", "dense"}
    elif isinstance(targets, list):
        assert ends == {"query", "dense"}
    else:
        assert len(layers) == 2
        assert all("layer.1." in name for name in layers)


@each_method
def test_layers_and_exclusions(config_cls: Method) -> None:
    config = config_cls(target_modules=["q_proj", "k_proj"], exclude_modules=["k_proj"], layers_to_transform=0)
    model = get_peft_model(models.llama(), config)
    assert model.base_model.targeted_module_names == ["model.layers.0.self_attn.q_proj"]
    bare = get_peft_model(models.llama().model, config_cls(target_modules=["q_proj"], layers_to_transform=[1]))
    assert bare.base_model.targeted_module_names == ["layers.1.self_attn.q_proj"]
    with pytest.raises(NoMatchingPeftModuleError, match="'q_proj' is there, but not where the config's other fields"):
        get_peft_model(models.llama(), config_cls(target_modules=["q_proj"], layers_to_transform=[7]))


@each_method
def test_heads_are_trained_and_saved(config_cls: Method, tmp_path: Path) -> None:
    model = perturb(get_peft_model(models.bert(), config_cls(task_type="SEQ_CLS")))
    trained = logits(model)
    model.save_pretrained(tmp_path)
    assert any("classifier" in key for key in load_file(tmp_path / "adapter_model.safetensors"))
    assert torch.equal(logits(PeftModel.from_pretrained(models.bert(seed=0), tmp_path).eval()), trained)


@each_method
def test_auto_class_and_transformers_load_what_was_saved(config_cls: Method, tmp_path: Path) -> None:
    base = models.bert()
    base.save_pretrained(tmp_path / "base")
    base = type(base).from_pretrained(tmp_path / "base")
    model = perturb(get_peft_model(base, config_cls()))  # no task type: transformers' own loader has no heads
    trained = logits(model)
    model.save_pretrained(tmp_path / "adapter")
    native = type(base).from_pretrained(tmp_path / "base").eval()
    native.load_adapter(str(tmp_path / "adapter"))
    assert_same_adapter(native, trained, model, config_cls.method)

    base = type(base).from_pretrained(tmp_path / "base")
    model = perturb(get_peft_model(base, config_cls(task_type="SEQ_CLS")))
    trained = logits(model)
    model.save_pretrained(tmp_path / "with_head")
    auto = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "with_head").eval()
    assert torch.equal(logits(auto), trained)


@each_method
def test_transformers_add_adapter(config_cls: Method, tmp_path: Path) -> None:
    model = models.llama()
    expected = logits(model)
    model.add_adapter(config_cls(), adapter_name="extra")
    assert torch.equal(logits(model), expected)
    perturb(model)
    trained = logits(model)
    model.save_pretrained(tmp_path)
    fresh = models.llama()
    fresh.load_adapter(str(tmp_path), adapter_name="extra")
    assert_same_adapter(fresh, trained, model, config_cls.method)
    model.disable_adapters()
    assert torch.equal(logits(model), expected)


@each_method
def test_low_cpu_mem_usage(config_cls: Method, tmp_path: Path) -> None:
    model = perturb(get_peft_model(models.bert(), config_cls()))
    trained = logits(model)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(models.bert(), tmp_path, low_cpu_mem_usage=True).eval()
    assert_same_adapter(loaded, trained, model, config_cls.method)


@each_method
def test_bias_options(config_cls: Method, tmp_path: Path) -> None:
    only = get_peft_model(models.bert(), config_cls(bias=f"{config_cls.method}_only"))
    biases = [n for n, p in only.named_parameters() if p.requires_grad and n.endswith(".bias")]
    assert biases
    assert all(".base_layer.bias" in name for name in biases)
    trained = logits(perturb(only))
    only.save_pretrained(tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(models.bert(), tmp_path).eval()), trained)


@each_method
def test_gradient_checkpointing_gives_the_same_gradients(config_cls: Method) -> None:
    def gradients(**options: bool) -> dict[str, torch.Tensor]:
        model = perturb(get_peft_model(models.llama(), config_cls())).train()
        if options:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
        model(input_ids=IDS, labels=IDS).loss.backward()
        return {n: p.grad for n, p in model.named_parameters() if p.requires_grad}

    expected = gradients()
    for reentrant in (False, True):
        found = gradients(use_reentrant=reentrant)
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, msg=name)


@each_method
def test_autocast(config_cls: Method) -> None:
    model = perturb(get_peft_model(models.bert(), config_cls()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(input_ids=IDS, labels=torch.tensor([0, 1, 0])).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


@each_method
@pytest.mark.parametrize("shape", [(6,), (0, 6), (2, 0, 6), (2, 3, 4, 6)])
def test_any_leading_shape(config_cls: Method, shape: tuple[int, ...]) -> None:
    model = get_peft_model(nn.Sequential(nn.Linear(6, 5)), config_cls(target_modules=["0"], init_weights=False))
    x = torch.randn(shape)
    assert model(x).shape == (*shape[:-1], 5)
    if x.numel():
        torch.testing.assert_close(model(x).reshape(-1, 5), model(x.reshape(-1, 6)))


@each_method
def test_dropout_is_off_when_evaluating(config_cls: Method) -> None:
    config = config_cls(target_modules=["0"], init_weights=False, dropout=0.5)
    model = get_peft_model(nn.Sequential(nn.Linear(64, 64)), config)
    x = torch.randn(8, 64)
    assert not torch.equal(model.train()(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


@pytest.mark.parametrize("size", [1, 17, 101, 4097])
@each_method
def test_any_size_has_an_adapter(config_cls: Method, size: int) -> None:
    inputs, outputs = (size, size) if size > 1 or not config_cls.turns else (2, 1)  # a single number cannot turn
    model = get_peft_model(nn.Sequential(nn.Linear(inputs, outputs)), config_cls(target_modules=["0"]))
    assert model(torch.ones(2, inputs)).shape == (2, outputs)


def test_adp_refuses_to_merge() -> None:
    model = get_peft_model(models.bert(), LorettaAdpConfig())
    for merge in (model.merge_and_unload, model.merge_adapter):
        with pytest.raises(TTTypeError, match="a non-linearity stands between its two matrices"):
            merge()
    layer = next(m for m in model.modules() if isinstance(m, model.base_model.tuner_layer_cls))
    with pytest.raises(TTTypeError, match="cannot be merged"):
        layer.merge()


def test_safe_merge_refuses_nan_and_changes_nothing() -> None:
    model = get_peft_model(nn.Sequential(nn.Linear(6, 6)), LorettaRepConfig(target_modules=["0"]))
    layer = model.base_model.model[0]
    before = layer.base_layer.weight.clone()
    with torch.no_grad():
        next(iter(layer.networks["default"].parameters())).fill_(float("nan"))
    with pytest.raises(TTValueError, match="NaNs detected in the merged weights"):
        model.merge_adapter(safe_merge=True)
    assert torch.equal(layer.base_layer.weight, before)
    assert not layer.merged
