"""The whole life of an adapter on every architecture, with every method: all of it agrees to some rounding errors."""

import copy
import warnings

import pytest
import torch
from peft import PeftModel, get_peft_model

from tests.ttnet_llm.architectures import CAUSAL, IDS, KINDS, inputs, logits, make, task_type
from tests.ttnet_llm.methods import METHODS
from ttnet.errors import TTTypeError, TTValueError
from ttnet_llm import NeuronLoraConfig, TTTurnConfig, apply_loretta, export_lora
from ttnet_llm.tuner import AdapterLayer

TOLERANCE = 2e-6
# Without feed-forward blocks of linear layers, whose neurons could be adapted.
NO_NEURONS = ("mixtral", "qwen3_moe", "olmoe", "gpt_oss", "mamba", "mamba2", "falcon_mamba")

each_architecture = pytest.mark.parametrize("name", KINDS)


def assert_close(found, expected, what):
    scale = max(1.0, float(expected.abs().max()))
    assert float((found - expected).abs().max()) <= TOLERANCE * scale, what


def train(model, name, steps=3):
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=5e-3)
    labels = {"labels": torch.tensor([0, 1, 1]) if task_type(name) == "SEQ_CLS" else IDS}
    for _ in range(steps):
        loss = model(**inputs(name), **labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def generate(model, **options):
    return model.generate(
        input_ids=IDS, max_new_tokens=5, do_sample=False, pad_token_id=0, eos_token_id=None, **options
    )


@pytest.mark.slow
@each_architecture
@pytest.mark.parametrize("variant", ["rep", "adp"])
def test_loretta_needs_no_targets(name, variant):
    base = make(name)
    expected = logits(base, name)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message=".*passes over")
        model = apply_loretta(base, variant)
    assert torch.equal(logits(model, name), expected)
    layers = [module for module in model.modules() if isinstance(module, AdapterLayer)]
    assert len(layers) >= 2 or name == "albert"


@pytest.mark.slow
@each_architecture
def test_all_linear_layers_can_be_adapted(name):
    model = get_peft_model(make(name), METHODS[0](target_modules="all-linear", task_type=task_type(name))).eval()
    assert torch.equal(logits(model, name), logits(make(name), name))
    train(model, name, steps=1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*passes over")
@each_architecture
@pytest.mark.parametrize("method", METHODS, ids=[method.name for method in METHODS])
def test_a_whole_life(name, method, tmp_path):
    base = make(name)
    weights = copy.deepcopy(base.state_dict())
    expected = logits(base, name)
    if method.config_cls is NeuronLoraConfig and name in NO_NEURONS:
        with pytest.raises(TTValueError, match=r"no default for the architecture .* linear layers of this model are"):
            get_peft_model(base, method(task_type=task_type(name)))
        return
    model = get_peft_model(base, method(task_type=task_type(name))).eval()
    assert torch.equal(logits(model, name), expected)
    train(model, name, steps=9 if method.config_cls is TTTurnConfig else 3)  # which take small ones
    trained = logits(model, name)
    assert float((trained - expected).abs().max()) > 10 * TOLERANCE
    still = {key.replace(".base_layer", ""): weight for key, weight in model.get_base_model().state_dict().items()}
    assert all(torch.equal(still[key], weight) for key, weight in weights.items() if key in still)
    model.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(make(name), tmp_path / "adapter").eval()
    assert_close(logits(loaded, name), trained, "loaded")
    if name in CAUSAL:
        assert torch.equal(generate(loaded, use_cache=True), generate(model, use_cache=False))
    if not method.merges:
        with pytest.raises(TTTypeError, match="cannot be merged"):
            loaded.merge_and_unload()
        return
    export_lora(loaded, tmp_path / "lora")
    plain = PeftModel.from_pretrained(make(name), tmp_path / "lora").eval()
    assert_close(logits(plain, name), trained, "exported")
    merged = loaded.merge_and_unload()
    assert_close(logits(merged, name), trained, "merged")
    merged.save_pretrained(tmp_path / "merged")
    again = type(merged).from_pretrained(tmp_path / "merged").eval()
    assert_close(logits(again, name), trained, "merged and loaded")
