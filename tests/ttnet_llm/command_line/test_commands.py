"""The commands for adapters that are done, and what lies behind them."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from torch import nn
from typer.testing import CliRunner

from tests.ttnet_llm import models
from tests.ttnet_llm.models import logits, perturb
from tests.ttnet_llm.tiny import rows, save_model, save_rows
from ttnet.errors import TTTypeError, TTValueError
from ttnet_llm import (
    EtherConfig,
    LorettaAdpConfig,
    LorettaRepConfig,
    LortaConfig,
    MeloraConfig,
    MetaTTConfig,
    TTEtherConfig,
    TTLoraConfig,
    TTTurnConfig,
)
from ttnet_llm.command_line.cli import app
from ttnet_llm.loading import load_adapter
from ttnet_llm.lora.export import export_lora
from ttnet_llm.lora.spectra import adapter_spectra, draw_spectra


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    return result.exit_code, " ".join(result.output.split())


def save(folder: Path, make: Callable[[], nn.Module], config: object) -> nn.Module:
    """Save a base model in `base` and an adapter in `adapter`, and give both together."""
    make().save_pretrained(folder / "base")
    base = type(make()).from_pretrained(folder / "base")
    model = perturb(get_peft_model(base, config)).eval()
    model.save_pretrained(folder / "adapter")
    return model


@pytest.mark.parametrize(
    ("make", "config"),
    [
        (models.llama, LortaConfig(task_type="CAUSAL_LM")),
        (models.t5, LorettaRepConfig(task_type="SEQ_2_SEQ_LM", layout="interleaved")),
        (models.gpt2, MetaTTConfig()),
        (models.roberta, LorettaRepConfig(task_type="SEQ_CLS", tt_head=True, train_norms=True, bias="all")),
        (models.llama, TTLoraConfig(init_weights="tt_svd")),
    ],
)
def test_export_needs_no_base_weights(make: Callable[[], nn.Module], config: object, tmp_path: Path) -> None:
    model = save(tmp_path, make, config)
    (tmp_path / "base" / "model.safetensors").rename(tmp_path / "weights")
    code, output = run("export", tmp_path / "adapter", "--output", tmp_path / "lora")
    assert code == 0, output
    assert "LoRA of rank" in output
    assert ("Note: The export holds more than LoRA: norms (" in output) == config.train_norms
    (tmp_path / "weights").rename(tmp_path / "base" / "model.safetensors")
    base = type(make()).from_pretrained(tmp_path / "base")
    loaded = PeftModel.from_pretrained(base, tmp_path / "lora").eval()
    torch.testing.assert_close(logits(loaded), logits(model), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "config", [EtherConfig(), TTEtherConfig(r=2), TTTurnConfig(r=2)], ids=["ether", "tt_ether", "tt_turn"]
)
def test_turns_are_exported_and_inspected_with_the_weights_that_they_turn(config: object, tmp_path: Path) -> None:
    model = save(tmp_path, models.llama, config)
    code, output = run("export", tmp_path / "adapter", "--output", tmp_path / "lora")
    assert code == 0, output
    base = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "base")
    plain = logits(base)
    loaded = PeftModel.from_pretrained(base, tmp_path / "lora").eval()
    torch.testing.assert_close(logits(loaded), logits(model), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(logits(loaded), plain, atol=1e-3)
    found = {entry.name: entry.singular_values for entry in adapter_spectra(tmp_path / "adapter")}
    for name, layer in model.base_model.layers_with("default"):
        expected = torch.linalg.svdvals(layer.get_delta_weight("default"))
        values = torch.tensor(found[name])
        torch.testing.assert_close(values, expected[: len(values)], rtol=1e-3, atol=1e-5)
    (tmp_path / "base" / "model.safetensors").unlink()
    code, output = run("export", tmp_path / "adapter", "--output", tmp_path / "again")
    assert code == 1
    assert "model.safetensors" in output


@pytest.mark.parametrize("with_head", [True, False])
def test_the_number_of_classes_is_read_off_the_weights(with_head: bool, tmp_path: Path) -> None:
    base = models.bert()
    (base if with_head else base.bert).save_pretrained(tmp_path / "base")
    cls = transformers.BertForSequenceClassification
    base = cls.from_pretrained(tmp_path / "base", num_labels=5, ignore_mismatched_sizes=True)
    model = perturb(get_peft_model(base, LorettaRepConfig(task_type="SEQ_CLS"))).eval()
    model.save_pretrained(tmp_path / "adapter")
    loaded = load_adapter(tmp_path / "adapter")
    torch.testing.assert_close(logits(loaded), logits(model))
    assert logits(loaded).shape == (3, 5)


@pytest.mark.parametrize(("options", "ranks"), [((), {4}), (("--pad-to", 8), {8}), (("--pad-to", "none"), {2, 4})])
def test_export_pads_as_it_is_told(options: tuple[object, ...], ranks: set[int], tmp_path: Path) -> None:
    save(tmp_path, models.llama, MeloraConfig(r=2, n=2, rank_pattern={"v_proj": 1}))
    code, output = run("export", tmp_path / "adapter", "--output", tmp_path / "lora", *options)
    assert code == 0, output
    saved = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert {saved["r"], *saved["rank_pattern"].values()} == ranks


def test_export_keeps_to_a_rank_and_a_format(tmp_path: Path) -> None:
    save(tmp_path, models.llama, MeloraConfig(r=2, n=2))
    arguments = ("export", tmp_path / "adapter", "--output", tmp_path / "lora", "--rank", 1)
    assert "LoRA of rank 1" in run(*arguments)[1]
    assert "LoRA of rank 1" in run(*arguments, "--format", "mlx")[1]
    assert (tmp_path / "lora" / "adapters.safetensors").exists()


@pytest.mark.parametrize("method", ["tt-lora", "loretta-rep"])
def test_compress(method: str, tmp_path: Path) -> None:
    model = save(tmp_path, models.llama, LoraConfig(r=4))
    arguments = ("compress", tmp_path / "adapter", "--method", method)
    code, output = run(*arguments, "--eps", 0.5)
    assert code == 0, output
    assert "Not saved: " in output
    code, output = run(*arguments, "--output", tmp_path / "tt")
    assert code == 0, output
    loaded = load_adapter(tmp_path / "tt", model=str(tmp_path / "base"))
    torch.testing.assert_close(logits(loaded), logits(model), rtol=1e-5, atol=1e-5)
    code, output = run(*arguments, "--budget", 10)
    assert code == 1
    assert "of rank 1, have" in output


def test_merge_saves_the_model_with_its_tokenizer(tmp_path: Path) -> None:
    save_model(tmp_path / "base")
    base = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    model = perturb(get_peft_model(base, LorettaRepConfig(task_type="SEQ_CLS", tt_head=True))).eval()
    model.save_pretrained(tmp_path / "adapter")
    code, output = run("merge", tmp_path / "adapter", "--output", tmp_path / "merged")
    assert code == 0, output
    merged = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(logits(merged, models.IDS % 8), logits(model, models.IDS % 8), rtol=1e-4, atol=1e-4)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "merged").tokenize("the film") == ["the", "film"]


def test_merge_without_a_tokenizer_and_of_lora(tmp_path: Path) -> None:
    model = save(tmp_path, models.llama, LoraConfig(task_type="CAUSAL_LM"))
    code, output = run("merge", tmp_path / "adapter", "--output", tmp_path / "merged")
    assert code == 0, output
    assert "has no tokenizer that can be loaded" in output
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(logits(merged), logits(model), rtol=1e-4, atol=1e-4)


def test_merge_takes_no_tokenizer_that_knows_no_words(tmp_path: Path) -> None:
    save(tmp_path, models.bert, LorettaRepConfig(task_type="SEQ_CLS"))  # for which transformers makes one up
    code, output = run("merge", tmp_path / "adapter", "--output", tmp_path / "merged")
    assert code == 0, output
    assert "has no tokenizer that can be loaded" in output
    assert not list((tmp_path / "merged").glob("token*"))


def test_a_run_of_finetune_can_be_exported_merged_and_inspected(tmp_path: Path) -> None:
    save_model(tmp_path / "model")
    data = [{**row, "label": ("good", "bad", "so-so")[k % 3]} for k, row in enumerate(rows(24))]
    code, output = run(
        "finetune", tmp_path / "model", "--train", save_rows(tmp_path / "train.jsonl", data),
        "--validation", save_rows(tmp_path / "validation.jsonl", data), "--epochs", 1, "--output", tmp_path / "run",
    )  # fmt: skip
    assert code == 0, output
    for arguments in (
        ("export", tmp_path / "run", "--output", tmp_path / "lora"),
        ("merge", tmp_path / "run", "--output", tmp_path / "merged"),
        ("inspect", tmp_path / "run"),
    ):
        code, output = run(*arguments)
        assert code == 0, output
    assert transformers.AutoConfig.from_pretrained(tmp_path / "merged").label2id == {"bad": 0, "good": 1, "so-so": 2}


@pytest.mark.usefixtures("whole_pictures")
def test_inspect_shows_and_draws(tmp_path: Path) -> None:
    save(tmp_path, models.llama, TTLoraConfig(tt_rank=3))
    code, output = run("inspect", tmp_path / "adapter", "--picture", tmp_path / "spectra.png")
    assert code == 0, output
    assert "1.self_attn.v_proj" in output
    assert "effective" in output
    assert (tmp_path / "spectra.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    "config", [LoraConfig(r=4), MetaTTConfig(r=3), LorettaRepConfig(layout="interleaved", r=3), MeloraConfig(r=2, n=3)]
)
def test_spectra_are_those_of_the_dense_updates(config: object, tmp_path: Path) -> None:
    model = save(tmp_path, models.llama, config)
    spectra = adapter_spectra(tmp_path / "adapter")
    layers = {n: m for n, m in model.get_base_model().named_modules() if hasattr(m, "get_delta_weight")}
    assert [spectrum.name for spectrum in spectra] == list(layers)
    for spectrum in spectra:
        expected = torch.linalg.svdvals(layers[spectrum.name].get_delta_weight("default").detach().double())
        found = torch.tensor(spectrum.singular_values, dtype=torch.float64)
        torch.testing.assert_close(found, expected[: len(found)], rtol=1e-5, atol=1e-6)
        assert torch.all(expected[len(found) :] < 1e-5 * expected[0])
        shares = expected / expected.sum()
        entropy = -sum(share * math.log(share) for share in shares.tolist() if share > 1e-12)
        assert spectrum.effective_rank == pytest.approx(math.exp(entropy), rel=1e-4)
    trained = sum(p.numel() for n, p in model.named_parameters() if "lora_" in n or "_network" in n)
    assert sum(spectrum.parameters for spectrum in spectra) == trained


def test_what_is_not_linear_has_no_singular_values(tmp_path: Path) -> None:
    save(tmp_path, models.llama, LorettaAdpConfig(tt_rank=3))
    spectra = adapter_spectra(tmp_path / "adapter")
    assert {spectrum.singular_values for spectrum in spectra} == {None}
    assert {spectrum.effective_rank for spectrum in spectra} == {None}
    assert max(max(ranks) for spectrum in spectra for ranks in spectrum.train_ranks) == 3
    assert run("inspect", tmp_path / "adapter")[0] == 0
    with pytest.raises(TTValueError, match="there is nothing to draw"):
        draw_spectra(spectra, tmp_path / "spectra.png", title="")


def test_a_fresh_adapter_has_rank_zero(tmp_path: Path) -> None:
    models.llama().save_pretrained(tmp_path / "base")
    base = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "base")
    get_peft_model(base, TTLoraConfig()).save_pretrained(tmp_path / "adapter")
    for spectrum in adapter_spectra(tmp_path / "adapter"):
        assert spectrum.singular_values == ()
        assert spectrum.effective_rank == 0
    assert run("inspect", tmp_path / "adapter")[0] == 0


def test_mistakes_get_a_sentence(tmp_path: Path) -> None:
    save(tmp_path, models.llama, LorettaAdpConfig())
    save(tmp_path / "other", models.llama, IA3Config(target_modules=["q_proj"], feedforward_modules=[]))
    nameless = tmp_path / "nameless"
    get_peft_model(models.llama(), LortaConfig()).save_pretrained(nameless)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    out = ("--output", tmp_path / "out")
    for arguments, sentence in (
        (("export", tmp_path / "nowhere", *out), "holds no adapter (there is no adapter_config.json)"),
        (("export", tmp_path / "adapter", *out), "loretta_adp, which is not linear in its input"),
        (("export", nameless, *out), "names no base model; say which one with model (--base)"),
        (("export", nameless, "--base", "no/such-model", *out), "no/such-model"),
        (("export", tmp_path / "other" / "adapter", *out), "is IA3, no method of this package"),
        (("export", nameless, "--base", tmp_path / "base", "--pad-to", "most", *out), "pad_to is 'most'"),
        (("compress", tmp_path / "adapter", *out), "is LORETTA_ADP, not LoRA"),
        (("compress", tmp_path / "adapter", "--method", "cp", *out), "method is 'cp'; expected one of"),
        (("merge", tmp_path / "adapter", *out), "a non-linearity stands between its two matrices"),
        (("merge", nameless, "--output", tmp_path / "full"), "holds 'mine.txt', which would be lost"),
        (("inspect", tmp_path / "other" / "adapter"), "is IA3; expected LoRA or a method of this package"),
        (("inspect", nameless, "--picture", "a.jpeg"), "expected a png, pdf or svg file"),
    ):
        code, output = run(*arguments)
        assert code == 1, output
        assert sentence in output
        assert "Traceback" not in output
        assert not (tmp_path / "out").exists()


def test_no_command_replaces_what_it_has_not_written(tmp_path: Path) -> None:
    model = save(tmp_path, models.llama, TTLoraConfig(tt_rank=3))
    export_lora(model, tmp_path / "lora")
    lora = get_peft_model(models.llama(), LoraConfig(r=4))
    lora.save_pretrained(tmp_path / "mine")
    tokens = save_model(tmp_path / "model")
    files = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    for command in (
        ("export", tmp_path / "adapter"),
        ("merge", tmp_path / "adapter"),
        ("compress", tmp_path / "mine"),
        ("compress", tmp_path / "lora"),
        ("tensorize", tokens, "--ratio", 0.5),
    ):
        for output in ("base", "adapter", "mine", "model", "lora", "model/../lora"):
            if (command[0], output[-4:]) != ("export", "lora"):
                code, printed = run(*command, "--output", tmp_path / output)
                assert code == 1, (command, output)
                assert "would be lost" in printed or "would be replaced" in printed
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == files
    assert run("export", tmp_path / "adapter", "--output", tmp_path / "model/../lora")[0] == 0


def test_classes_that_cannot_be_told_and_methods_that_are_not_known(tmp_path: Path) -> None:
    save(tmp_path, models.llama, LortaConfig())
    file = tmp_path / "adapter" / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"auto_mapping": {"base_model_class": "MyModel", "parent_library": "mine"}}))
    model = json.loads((tmp_path / "base" / "config.json").read_text())
    (tmp_path / "base" / "config.json").write_text(json.dumps(model | {"architectures": None}))
    with pytest.raises(TTTypeError, match=r"of no class that transformers has \(MyModel\)"):
        load_adapter(tmp_path / "adapter")
    file.write_text(json.dumps(config | {"peft_type": "UNHEARD_OF"}))
    with pytest.raises(TTTypeError, match="is UNHEARD_OF, a method that PEFT has not"):
        load_adapter(tmp_path / "adapter")


def test_an_interrupted_merge_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, models.llama, LortaConfig())

    def stop(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", stop)
    code, output = run("merge", tmp_path / "adapter", "--output", tmp_path / "merged")
    assert code == 130
    assert "Interrupted; run the command again." in output
    assert {file.name for file in tmp_path.iterdir()} == {"base", "adapter"}
