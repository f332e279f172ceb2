"""Slim models saved and loaded: as records beside their base models, and whole."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

import ttnet_llm
from tests.ttnet_llm import models
from tests.ttnet_llm.architectures import KINDS, logits, task_type
from tests.ttnet_llm.slim_models import CASES, build, masks_of, random_plan, saved, size
from ttnet.errors import TTFileError, TTTypeError, TTValueError
from ttnet_llm import LorettaRepConfig, TTLoraConfig
from ttnet_llm.budget import count_parameters
from ttnet_llm.slim import axes, grow_adapter, load_slim, save_slim, slim
from ttnet_llm.slim.architectures import find, plain_layer
from ttnet_llm.tensorize import save_tensorized, tensorize

RECORD = {"config.json", "slim.json", "slim.safetensors", "ttnet_llm.json"}
NAME = "encoder.layer.0.output.dense"


@pytest.mark.parametrize("case", CASES)
def test_what_is_loaded_is_equal_to_the_bit(case: str, tmp_path: Path) -> None:
    name = CASES[case][0]
    model, _ = saved(case, tmp_path)
    expected = logits(model, name)
    assert {file.name for file in (tmp_path / "slim").iterdir()} - {"generation_config.json"} == RECORD
    model.save_pretrained(tmp_path / "whole")
    for folder in ("slim", "whole"):
        loaded = load_slim(tmp_path / folder)
        again = KINDS[name][0].from_pretrained(tmp_path / folder)
        for each in (loaded, again, ttnet_llm.load(tmp_path / folder)[0]):
            assert type(each) is type(model)
            assert torch.equal(logits(each, name), expected)
            assert each.state_dict().keys() == model.state_dict().keys()
            assert all(torch.equal(value, model.state_dict()[key]) for key, value in each.state_dict().items())
            assert not each.is_quantized
        loaded.save_pretrained(tmp_path / f"{folder} again")  # whole, in either case
        assert torch.equal(logits(load_slim(tmp_path / f"{folder} again"), name), expected)


def test_a_record_is_small_and_says_what_is_left(tmp_path: Path) -> None:
    model, found = saved("bert", tmp_path)
    told = json.loads((tmp_path / "slim" / "slim.json").read_text())
    assert told["base"] == str(tmp_path / "base")
    assert told["parameters"] == {"before": size(model.base_model) + found.removed, "after": size(model.base_model)}
    assert told["axes"][NAME] == {"kind": "neurons", "of": 48, "kept": len(found.kept[NAME])}
    numbers = load_file(tmp_path / "slim" / "slim.safetensors")
    assert torch.equal(numbers[f"{NAME}.kept"], found.kept[NAME].int())
    assert torch.equal(numbers[f"{NAME}.factors"], found.factors[NAME])
    weights = (tmp_path / "base" / "model.safetensors").stat().st_size
    assert sum(file.stat().st_size for file in (tmp_path / "slim").iterdir()) < weights / 4


@pytest.mark.parametrize("pieces", ["safetensors", "bin"])
def test_the_base_model_may_be_in_pieces_or_of_another_class(pieces: str, tmp_path: Path) -> None:
    model = tf.BertModel(tf.BertConfig(**models.ENCODER)).eval()
    if pieces == "safetensors":
        model.save_pretrained(tmp_path / "base", max_shard_size="20KB")
        assert len(list((tmp_path / "base").glob("*.safetensors"))) > 2
    else:
        model.save_pretrained(tmp_path / "base")
        torch.save(load_file(tmp_path / "base" / "model.safetensors"), tmp_path / "base" / "pytorch_model.bin")
        (tmp_path / "base" / "model.safetensors").unlink()
    found = random_plan(model)
    save_slim(found, tmp_path / "slim", base=tmp_path / "base")
    slim(model, found)
    loaded = tf.BertForSequenceClassification.from_pretrained(tmp_path / "slim", num_labels=5)
    assert loaded.classifier.out_features == 5
    state = model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in loaded.bert.state_dict().items())


def test_types_and_devices_are_those_asked_for(tmp_path: Path) -> None:
    _, found = saved("bert", tmp_path)
    loaded = load_slim(tmp_path / "slim", dtype=torch.bfloat16, device_map="cpu")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    base = KINDS["bert"][0].from_pretrained(tmp_path / "base", dtype=torch.bfloat16)
    slim(base, found)
    assert torch.equal(logits(loaded, "bert"), logits(base, "bert"))


def test_a_base_model_that_has_moved_is_named_anew(tmp_path: Path) -> None:
    model, _ = saved("bert", tmp_path)
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(TTFileError, match=r"base'.*cannot be loaded"):
        load_slim(tmp_path / "slim")
    for loaded in (
        load_slim(tmp_path / "slim", base=str(tmp_path / "moved")),
        ttnet_llm.load(tmp_path / "slim", base=str(tmp_path / "moved"))[0],
    ):
        assert torch.equal(logits(loaded, "bert"), logits(model, "bert"))
    (tmp_path / "moved" / "model.safetensors").unlink()
    with pytest.raises(
        TTFileError, match=r"moved' of the slim model in .* has no weights that can be found; say where"
    ):
        load_slim(tmp_path / "slim", base=str(tmp_path / "moved"))
    with pytest.raises(TTFileError, match="is slim itself; name the whole one"):
        load_slim(tmp_path / "slim", base=str(tmp_path / "slim"))


def test_a_record_names_no_place_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, found = saved("bert", tmp_path)
    monkeypatch.chdir(tmp_path)
    save_slim(found, "records/slim", base="base")
    assert json.loads(Path("records/slim/slim.json").read_text())["base"] == "../../base"
    for file in Path("records/slim").iterdir():
        assert str(tmp_path).encode() not in file.read_bytes(), file
    (tmp_path / "else/where").mkdir(parents=True)
    for moved in ("records", "base"):
        Path(moved).rename(tmp_path / "else" / moved)
    for place in (tmp_path, tmp_path / "else/where"):  # from wherever it is loaded
        monkeypatch.chdir(place)
        assert torch.equal(logits(load_slim(tmp_path / "else/records/slim"), "bert"), logits(model, "bert"))


@pytest.mark.parametrize("changed", ["attention.self.query", "attention.output.dense", "output.dense"])
def test_a_base_model_with_other_weights_is_refused(changed: str, tmp_path: Path) -> None:
    saved("bert", tmp_path)
    base = tf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    find(base.bert, f"encoder.layer.1.{changed}").weight.data *= 1.1
    base.save_pretrained(tmp_path / "trained")
    with pytest.raises(TTFileError, match=r"has other weights at 'encoder.layer.1.*than the one that was cut"):
        load_slim(tmp_path / "slim", base=str(tmp_path / "trained"))
    numbers = load_file(tmp_path / "slim" / "slim.safetensors")  # records of before had no samples, and are still read
    older = {key: value for key, value in numbers.items() if not key.endswith(".sample")}
    save_file(older, tmp_path / "slim" / "slim.safetensors")
    load_slim(tmp_path / "slim", base=str(tmp_path / "trained"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_a_base_model_of_another_precision_is_the_same(case: str, dtype: torch.dtype, tmp_path: Path) -> None:
    saved(case, tmp_path)
    KINDS[CASES[case][0]][0].from_pretrained(tmp_path / "base", dtype=dtype).save_pretrained(tmp_path / "half")
    load_slim(tmp_path / "slim", base=str(tmp_path / "half"))


def test_of_a_hub_the_whole_record_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers fetches the config and what it takes for the weights."""
    model, _ = saved("bert", tmp_path)
    (tmp_path / "slim" / "slim.json").rename(tmp_path / "slim.json")
    asked = []

    def fetch(name: str, file: str, **options: Any) -> str | None:
        asked.append((name, file))
        if file == "slim.json":
            shutil.copy(tmp_path / file, tmp_path / "slim" / file)
        return tf.utils.cached_file(name, file, **options)

    monkeypatch.setattr("ttnet_llm.slim.saving.cached_file", fetch)
    assert torch.equal(logits(load_slim(tmp_path / "slim"), "bert"), logits(model, "bert"))
    assert asked == [(str(tmp_path / "slim"), "slim.json"), (str(tmp_path / "base"), "model.safetensors")]


def test_records_that_are_damaged_are_refused(tmp_path: Path) -> None:
    saved("bert", tmp_path)
    place = tmp_path / "slim"
    whole = {file.name: file.read_bytes() for file in place.iterdir()}

    def damaged(words: str) -> None:
        with pytest.raises(TTFileError, match=words):
            load_slim(place)
        for name, content in whole.items():
            (place / name).write_bytes(content)

    (place / "slim.json").write_text("{")
    damaged("holds no record of a slim model that can be read")
    (place / "slim.json").unlink()
    damaged("holds no record of a slim model that can be read")
    numbers = load_file(place / "slim.safetensors")
    save_file({key: value for key, value in numbers.items() if key != f"{NAME}.kept"}, place / "slim.safetensors")
    damaged("KeyError")
    save_file(numbers | {f"{NAME}.kept": numbers[f"{NAME}.kept"] + 40}, place / "slim.safetensors")
    damaged("slim.json.*does not fit the model: plan keeps")
    config = json.loads((place / "config.json").read_text())
    config["quantization_config"]["version"] = 2
    (place / "config.json").write_text(json.dumps(config))
    damaged("is of format 2; expected format 1")
    with pytest.raises(TTFileError, match=r"base' is not cut; load it with transformers' from_pretrained"):
        load_slim(tmp_path / "base")


def test_a_whole_slim_model_with_another_count_is_refused(tmp_path: Path) -> None:
    model, _ = saved("bert", tmp_path)
    model.save_pretrained(tmp_path / "whole")
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    config["quantization_config"]["kept"][NAME] = 60
    (tmp_path / "whole" / "config.json").write_text(json.dumps(config))
    with pytest.raises(TTFileError, match="entry of a slim model does not fit the model: plan keeps"):
        load_slim(tmp_path / "whole")


def test_no_random_weights_are_loaded_without_this_package(tmp_path: Path) -> None:
    model, _ = saved("bert", tmp_path)
    model.save_pretrained(tmp_path / "whole")
    program = f"""
import json, sys
from transformers import AutoModelForSequenceClassification
said = []
for folder in ("slim", "whole"):
    try:
        AutoModelForSequenceClassification.from_pretrained({str(tmp_path)!r} + "/" + folder)
    except Exception as error:
        said.append(str(error))
assert "ttnet_llm" not in sys.modules
print(json.dumps(said))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    slim_said, whole_said = json.loads(ended.stdout)
    assert "import ttnet_llm" in slim_said
    assert "size" in whole_said


def test_what_is_there_is_not_lost(tmp_path: Path) -> None:
    _, found = saved("bert", tmp_path)
    save_slim(found, tmp_path / "slim", base=tmp_path / "base")  # an earlier record may be replaced
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.txt").write_text("mine")
    with pytest.raises(TTFileError, match=r"holds 'a.txt', which would be lost"):
        save_slim(found, tmp_path / "other", base=tmp_path / "base")
    with pytest.raises(TTFileError, match="which is read"):
        save_slim(found, tmp_path / "base", base=tmp_path / "base")
    before = (tmp_path / "slim" / "slim.json").read_text()
    with pytest.raises(TTValueError, match="plan is for another model"):
        save_slim(random_plan(build("gpt2")), tmp_path / "slim", base=tmp_path / "base")
    assert (tmp_path / "slim" / "slim.json").read_text() == before
    with pytest.raises(TTTypeError, match="model is cut already"):
        save_slim(found, tmp_path / "twice", base=tmp_path / "slim")
    assert not (tmp_path / "twice").exists()


def test_trains_and_cuts_are_not_mixed(tmp_path: Path) -> None:
    model = build("bert")
    found = random_plan(model)
    tensorize(model, targets=["word_embeddings"], ratio=0.9, progress=False)
    save_tensorized(model, tmp_path / "trains")
    with pytest.raises(TTTypeError, match="model has trains"):
        save_slim(found, tmp_path / "slim", base=tmp_path / "trains")
    model = build("bert")
    slim(model, found)
    with pytest.raises(TTTypeError, match="model is slim, and its config has one entry for either that or trains"):
        tensorize(model, targets=["intermediate.dense"], ratio=0.5, progress=False)


@pytest.mark.parametrize("case", CASES)
def test_a_grown_adapter_does_on_the_masked_whole_model_what_it_does_on_the_slim_one(case: str, tmp_path: Path) -> None:
    """The masks are on what the base layers read; the adapter has zeros there."""
    name = CASES[case][0]
    model, found = saved(case, tmp_path)
    config = LoraConfig(task_type=task_type(name), r=2, target_modules="all-linear", init_lora_weights=False)
    adapted = get_peft_model(load_slim(tmp_path / "slim"), config).eval()
    expected = logits(adapted, name)
    assert float((expected - logits(model, name)).abs().max()) > 1e-3
    adapted.save_pretrained(tmp_path / "adapter")
    written = grow_adapter(tmp_path / "adapter", tmp_path / "grown")
    assert written.base_model_name_or_path == str(tmp_path / "base")
    whole = build(case)
    found_axes = axes(whole)
    grown = PeftModel.from_pretrained(whole, str(tmp_path / "grown")).eval()
    masks = masks_of(found)
    for axis in found_axes:
        for reader in axis.readers:
            layer = plain_layer(find(whole.base_model, reader))
            width = (layer.in_features if hasattr(layer, "in_features") else layer.nx) // axis.groups
            factors = masks[axis.name].repeat_interleave(width)
            layer.register_forward_pre_hook(lambda _, args, factors=factors: (args[0] * factors,))
    largest = max(float(expected.abs().max()), 1)
    assert float((logits(grown, name) - expected).abs().max()) <= 1e-5 * largest


@pytest.mark.parametrize("config_cls", [LorettaRepConfig, TTLoraConfig])
def test_adapters_of_trains_grow_into_lora(config_cls: Any, tmp_path: Path) -> None:
    saved("bert", tmp_path)
    config = config_cls(task_type="SEQ_CLS", target_modules=["query", "intermediate.dense"], init_weights=False)
    adapted = models.perturb(get_peft_model(load_slim(tmp_path / "slim"), config), spread=0.1)
    adapted.save_pretrained(tmp_path / "adapter")
    grow_adapter(tmp_path / "adapter", tmp_path / "grown")
    grown = PeftModel.from_pretrained(build("bert"), str(tmp_path / "grown"))
    for k in range(2):
        small: Any = adapted.base_model.model.bert.encoder.layer[k].intermediate.dense
        large: Any = grown.base_model.model.bert.encoder.layer[k].intermediate.dense
        kept = json.loads((tmp_path / "slim" / "slim.json").read_text())["axes"][f"encoder.layer.{k}.output.dense"]
        delta, narrow = large.get_delta_weight("default"), small.get_delta_weight("default")
        assert delta.shape == (48, 32)
        assert int((delta.abs().sum(1) == 0).sum()) == 48 - kept["kept"]
        torch.testing.assert_close(delta[delta.abs().sum(1) > 0], narrow, rtol=1e-5, atol=1e-6)
    assert torch.equal(
        grown.base_model.model.classifier.modules_to_save["default"].weight,
        adapted.base_model.model.classifier.modules_to_save["default"].weight,
    )


def test_adapters_that_do_not_grow_are_refused(tmp_path: Path) -> None:
    model, _ = saved("bert", tmp_path)
    config = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"], bias="all")
    get_peft_model(load_slim(tmp_path / "slim"), config).save_pretrained(tmp_path / "adapter")
    with pytest.raises(TTTypeError, match=r"holds '.*bias', numbers of what was cut"):
        grow_adapter(tmp_path / "adapter", tmp_path / "grown")
    assert not (tmp_path / "grown").exists()
    model.save_pretrained(tmp_path / "whole")
    with pytest.raises(TTFileError, match="whole' holds no record of a slim model"):
        grow_adapter(tmp_path / "adapter", tmp_path / "grown", base=str(tmp_path / "whole"))


def test_an_adapter_of_another_model_is_not_grown(tmp_path: Path) -> None:
    saved("bert", tmp_path)
    config = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "intermediate.dense"])
    get_peft_model(build("bert"), config).save_pretrained(tmp_path / "adapter")
    with pytest.raises(TTFileError, match=r"has \d+ features at .*, where the slim model has \d+; name the record of"):
        grow_adapter(tmp_path / "adapter", tmp_path / "grown", base=str(tmp_path / "slim"))
    assert not (tmp_path / "grown").exists()


def test_adapters_on_slim_models_are_loaded_counted_exported_and_merged(tmp_path: Path) -> None:
    _, found = saved("llama", tmp_path)
    config = TTLoraConfig(task_type="CAUSAL_LM", tt_rank=2, target_modules=["q_proj", "down_proj"], init_weights=False)
    adapted = get_peft_model(load_slim(tmp_path / "slim"), config).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    expected = logits(adapted, "llama")
    loaded, _ = ttnet_llm.load(tmp_path / "adapter")
    torch.testing.assert_close(logits(loaded, "llama"), expected, rtol=0, atol=0)
    counted = count_parameters(tf.AutoConfig.from_pretrained(tmp_path / "slim"), config)
    assert counted.adapter == sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert counted.frozen == size(build("llama")) - found.removed
    ttnet_llm.export_lora(loaded, tmp_path / "lora")
    exported, _ = ttnet_llm.load(tmp_path / "lora")
    torch.testing.assert_close(logits(exported, "llama"), expected, rtol=0, atol=1e-4)
    merged = adapted.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(ttnet_llm.load(tmp_path / "merged")[0], "llama"), expected, rtol=0, atol=1e-5)
