"""Embeddings by sentence-transformers: pairs, triplets and scored pairs, from files to measures and vectors."""

import json
import logging
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from peft import AutoPeftModelForFeatureExtraction
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer, BertModel, TrainerCallback
from typer.testing import CliRunner

import ttnet_llm
from tests.ttnet_llm.tiny import BAD, GOOD, WORDS, save_model, save_rows
from ttnet.errors import MissingExtraError, TTValueError
from ttnet.nn import TTLinear
from ttnet_llm.command_line.cli import app
from ttnet_llm.inference import Predictor
from ttnet_llm.tensorize import save_tensorized, tensorize
from ttnet_llm.training import FinetuneSettings, evaluate, finetune, load_finetuned
from ttnet_llm.training.details import Columns
from ttnet_llm.training.evaluation import guess_details
from ttnet_llm.training.kinds import find_kind
from ttnet_llm.training.kinds.embed import Related, nearest_others, take
from ttnet_llm.training.metrics import spearman
from ttnet_llm.training.open_task import guess_kind, open_task
from ttnet_llm.training.tables import Table


def partners(count):
    """A good word belongs to the bad one of the same place."""
    return [
        {
            "anchor": f"the {WORDS[8 + k // 4 % 4]} was {GOOD[k % 4]}",
            "positive": f"{BAD[k % 4]} {WORDS[8 + k // 4 % 4]}",
        }
        for k in range(count)
    ]


def triplets(count):
    return [row | {"negative": f"{BAD[(k + 1) % 4]} {WORDS[8 + k // 4 % 4]}"} for k, row in enumerate(partners(count))]


def scored(count):
    return [
        {
            "sentence1": f"the {a} was {b}",
            "sentence2": f"{b} {a}" if k % 2 else f"{WORDS[(k + 3) % 8]} play",
            "score": float(k % 2),
        }
        for k in range(count)
        for a, b in [(WORDS[8 + k % 3], WORDS[k % 8])]
    ]


DATA = {"partners": partners, "triplets": triplets, "scored": scored}
FIRST = {"partners": "retrieval_accuracy", "triplets": "triplet_accuracy", "scored": "spearman"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embed")
    save_model(folder / "model")
    for name, rows in DATA.items():
        save_rows(folder / f"{name}.jsonl", rows(16))
    return folder


def make(place, output, rows="partners", model="model", **changes):
    file = str(place / f"{rows}.jsonl")
    options = {"epochs": 10, "batch_size": 8, "max_length": 16, "learning_rate": 1e-2, "device": "cpu"}
    kind = {} if rows != "scored" else {"kind": "embed"}
    return FinetuneSettings(
        str(place / model), str(output), **{"train": file, "validation": file} | kind | options | changes
    )


@pytest.fixture(scope="module")
def run(place, tmp_path_factory):
    """The folder of a run, and its result."""
    folder = tmp_path_factory.mktemp("run") / "run"
    return folder, finetune(make(place, folder, targets="all-linear"))


@pytest.mark.parametrize("rows", DATA)
def test_every_shape_learns_and_is_said(place, tmp_path, rows, caplog):
    with caplog.at_level(logging.INFO, "ttnet_llm"):
        result = finetune(make(place, tmp_path / "run", rows, targets="all-linear"))
    first = FIRST[rows]
    assert result.kind == "embed"
    assert next(iter(result.after)) == first
    assert result.after[first] > result.before[first]
    words = {
        "partners": "pairs of texts in the columns anchor and positive that are to be near each other, and far from",
        "triplets": "triplets of texts in the columns anchor, positive and negative: the first is to be near the",
        "scored": "pairs of texts in the columns sentence1 and sentence2 with a score in score, learnt by CoSENTLoss",
    }
    assert result.labels.startswith(words[rows])
    assert f"are taken as {words[rows]}" in caplog.text
    assert ("The kind is embed, as" in caplog.text) == (rows != "scored")
    found = evaluate(tmp_path / "run", place / f"{rows}.jsonl")
    assert found.measures == result.after
    assert np.array_equal(found.logits, np.load(tmp_path / "run" / "similarities.npy"))
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<h3>Farthest off</h3>" in page
    assert "<h3>Best</h3>" in page


def test_it_is_loaded_with_what_comes_after_the_model(place, run, monkeypatch, capsys):
    folder, _ = run
    texts = ["the film was good", "sad"]
    model, tokenizer = ttnet_llm.load(folder)
    assert isinstance(model, SentenceTransformer)
    again, *_ = load_finetuned(folder)
    vectors = model.encode(texts)
    assert np.array_equal(again.encode(texts), vectors)
    plain = AutoPeftModelForFeatureExtraction.from_pretrained(folder / "adapter").eval()
    for text, vector in zip(texts, vectors, strict=True):
        with torch.no_grad():
            mean = plain(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(mean.numpy(), vector, atol=1e-5)
    base = SentenceTransformer(str(place / "model"), device="cpu")
    assert not np.allclose(base.encode(texts), vectors, atol=1e-2)
    theirs = SentenceTransformer(str(place / "model"), device="cpu")
    theirs.load_adapter(str(folder / "adapter"))
    np.testing.assert_allclose(theirs.encode(texts), vectors, atol=1e-5)
    answers = list(Predictor(model, tokenizer)(texts))
    np.testing.assert_allclose([answer["prediction"] for answer in answers], vectors, atol=1e-6)
    monkeypatch.chdir(folder / "adapter")
    card = (folder / "adapter" / "README.md").read_text()
    exec(card.split("```python")[1].split("```")[0], {})
    assert "[[" in capsys.readouterr().out
    assert "pipeline_tag: sentence-similarity" in card
    assert "sentence-transformers" in card


def test_vectors_from_the_command_line(place, run):
    folder, _ = run
    model, _ = ttnet_llm.load(folder)
    done = CliRunner().invoke(app, ["predict", str(folder), "--data", str(place / "partners.jsonl")])
    records = [json.loads(line) for line in done.stdout.splitlines()]
    expected = model.encode([row["anchor"] for row in partners(16)])
    np.testing.assert_allclose([record["prediction"] for record in records], expected, atol=1e-5)
    options = ["--data", str(place / "partners.jsonl"), "--text-column", "positive"]
    done = CliRunner().invoke(app, ["predict", str(folder), *options])
    expected = model.encode([row["positive"] for row in partners(16)])
    found = [json.loads(line)["prediction"] for line in done.stdout.splitlines()]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    done = CliRunner().invoke(app, ["predict", str(folder), "--text", "good"], env={"COLUMNS": "100"})
    assert "... (32 numbers)" in " ".join(done.stdout.split())


def test_a_whole_model_is_one_of_sentence_transformers(place, tmp_path):
    result = finetune(make(place, tmp_path / "run", method="full", epochs=1, learning_rate=1e-3))
    model = SentenceTransformer(str(tmp_path / "run" / "model"), device="cpu")
    ours, _ = ttnet_llm.load(tmp_path / "run")
    assert np.array_equal(model.encode(["good"]), ours.encode(["good"]))
    assert evaluate(tmp_path / "run", place / "partners.jsonl").measures == result.after


def test_pooling_goes_along(place, tmp_path):
    """Also where it is another than the library's default."""
    base = SentenceTransformer(str(place / "model"), device="cpu")
    base.save_pretrained(str(tmp_path / "base"))
    first_token = {"word_embedding_dimension": 32, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (tmp_path / "base" / "1_Pooling" / "config.json").write_text(json.dumps(first_token))
    finetune(make(place, tmp_path / "run", model=tmp_path / "base", epochs=1))
    model, _ = ttnet_llm.load(tmp_path / "run")
    expected = model.encode(["the film", "sad"])
    with torch.no_grad():
        (first,) = find_kind("embed").core(model)(**model.tokenizer("sad", return_tensors="pt")).last_hidden_state[:, 0]
    np.testing.assert_allclose(first.numpy(), expected[1], atol=1e-5)
    theirs = SentenceTransformer(str(tmp_path / "run" / "adapter"), device="cpu")  # as ttnet_llm has been imported
    np.testing.assert_allclose(theirs.encode(["the film", "sad"]), expected, atol=1e-6)
    for command in ("merge", "export"):
        done = CliRunner().invoke(app, [command, str(tmp_path / "run"), "--output", str(tmp_path / command)])
        assert done.exit_code == 0, done.output
        again, _ = ttnet_llm.load(tmp_path / command)
        np.testing.assert_allclose(again.encode(["the film", "sad"]), expected, atol=1e-5)
        if command == "merge":  # which has the tokenizer, too
            again = SentenceTransformer(str(tmp_path / command), device="cpu")
        np.testing.assert_allclose(again.encode(["the film", "sad"]), expected, atol=1e-5)


class Interrupt(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 5:
            raise KeyboardInterrupt


@pytest.mark.parametrize("method", ["loretta-rep", "full"])
def test_an_interrupted_run_resumes_to_the_same_result(place, tmp_path, method):
    rate = {"full": 1e-3}.get(method, 1e-2)
    options = {"epochs": 4, "method": method, "learning_rate": rate}
    expected = finetune(make(place, tmp_path / "whole", **options))
    settings = make(place, tmp_path / "run", **options)
    with pytest.raises(KeyboardInterrupt):
        finetune(settings, callbacks=[Interrupt()])
    resumed = finetune(settings, resume=True)
    assert resumed.steps == expected.steps == 8
    np.testing.assert_allclose(resumed.losses, expected.losses, rtol=1e-5)
    outputs = [np.load(tmp_path / name / "similarities.npy") for name in ("run", "whole")]
    np.testing.assert_allclose(*outputs, atol=1e-5)


def test_stopping_early_keeps_the_best(place, tmp_path):
    result = finetune(make(place, tmp_path / "run", epochs=20, learning_rate=3e-2, early_stopping=2))
    first = FIRST["partners"]
    assert result.after[first] == max(score for _, score in result.scores)


@given(
    texts=st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("cdef")), min_size=1, max_size=8),
    seed=st.integers(0, 99),
)
def test_rivals_are_the_partners_of_others(texts, seed):
    rng = np.random.default_rng(seed)
    vectors = {text: rng.normal(size=3) for text in "abcdef"}
    unit = {text: vector / np.linalg.norm(vector) for text, vector in vectors.items()}
    rows = [Related(pair) for pair in texts]
    found = nearest_others(rows, np.array([unit[a] for a, _ in texts]), np.array([unit[b] for _, b in texts]))
    for (anchor, _), near in zip(texts, found, strict=True):
        own = {b for a, b in texts if a == anchor}
        assert near == pytest.approx(max((unit[anchor] @ unit[b] for _, b in texts if b not in own), default=-1.0))


@given(
    arrays.arrays(np.float64, 7, elements=st.integers(-3, 3)), arrays.arrays(np.float64, 7, elements=st.integers(-3, 3))
)
def test_ranks_are_correlated_as_scipy_does(one, other):
    expected = 0.0 if len(set(one)) == 1 or len(set(other)) == 1 else spearmanr(one, other).statistic
    assert spearman(one, other) == pytest.approx(expected, abs=1e-9)


def test_measures_are_those_of_cosines(place):
    kind = find_kind("embed")
    model, tokenizer = kind.load(str(place / "model"), kind.configure(str(place / "model"), None))
    for name, rows in DATA.items():
        table = Table("a.jsonl", {key: [row[key] for row in rows(8)] for key in rows(1)[0]})
        details = guess_details(model, table)
        columns = details.columns.text
        a, b = (torch.tensor(model.encode(table.cells(column))) for column in columns[:2])
        measures = (FIRST[name],)
        found = kind.judge(model, tokenizer, take(table, details.columns), type(details)(details.columns, 16, measures))
        near = torch.cosine_similarity(a, b).numpy()
        if name == "scored":
            assert found.measures["spearman"] == pytest.approx(spearmanr(near, table.cells("score")).statistic)
            np.testing.assert_allclose(found.outputs, near, atol=1e-6)
        elif name == "triplets":
            far = torch.cosine_similarity(a, torch.tensor(model.encode(table.cells("negative")))).numpy()
            np.testing.assert_allclose(found.outputs, near - far, atol=1e-6)
            assert found.measures["triplet_accuracy"] == np.mean(near > far)
        else:
            all_pairs = torch.cosine_similarity(a[:, None], b[None], dim=-1).numpy()
            assert found.measures["retrieval_accuracy"] == np.mean(all_pairs.argmax(1) == np.arange(8))


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ({"a": "x", "b": "y"}, {}, "has no columns of pairs that are named as usual, such as anchor and positive; say"),
        ({"a": "x", "b": "y"}, {"text_columns": ("a",)}, "text_columns names 1 columns; expected two for pairs, or"),
        ({"a": "x", "b": "y"}, {"text_columns": ("a", "c")}, "has no column 'c'; its columns are a, b"),
        (
            triplets(1)[0] | {"s": 1.0},
            {"label_column": "s", "text_columns": ("anchor", "positive", "negative")},
            "triplets have no score",
        ),
        ({"anchor": "x", "positive": None}, {}, "have no text in the column 'positive'"),
        ({"sentence1": "x", "sentence2": "y", "score": "z"}, {}, "is 'z', no number"),
        (
            partners(1)[0],
            {"measures": ("spearman",)},
            "measures names 'spearman', but the kind embed has retrieval_acc",
        ),
    ],
)
def test_unfit_rows_are_refused(tmp_path, rows, changes, message):
    file = save_rows(tmp_path / "rows.jsonl", [rows] * 2)
    with pytest.raises(TTValueError, match=message):
        open_task(FinetuneSettings("model", "output", train=file, kind="embed", **changes))


def test_columns_are_named_and_the_kind_is_told_by_them(run, tmp_path):
    settings = FinetuneSettings("model", "out", train="a.jsonl")
    for columns, kind in [
        (("anchor", "positive"), "embed"),
        (("query", "positive", "negative"), "embed"),
        (("question", "answer"), "causal"),
        (("sentence1", "sentence2", "label"), "classify"),
    ]:
        assert guess_kind(Table("a.jsonl", {name: ["x", "y"] for name in columns}), settings)[0] == kind
    table = Table("a.jsonl", {"a": ["x"], "b": ["y"], "c": [0.5]})
    named = FinetuneSettings("model", "out", train="a.jsonl", text_columns=("a", "b"), label_column="c")
    assert find_kind("embed").columns(table, named) == Columns(("a", "b"), "c")
    with pytest.raises(TTValueError, match="has no column 'anchor'; its columns are text"):
        evaluate(run[0], save_rows(tmp_path / "rows.jsonl", [{"text": "x"}]))


def test_the_extra_is_named(place, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingExtraError, match=r"needs the package 'sentence_transformers'.*'ttnet-torch\[embed\]'"):
        finetune(make(place, tmp_path / "run"))


@pytest.mark.parametrize("method", ["loretta-rep", "full"])
def test_a_tensorised_base_is_tuned_and_loaded_with_its_trains(tmp_path, method):
    save_model(tmp_path / "model")
    base = BertModel.from_pretrained(tmp_path / "model")
    tensorize(base, targets=["query", "intermediate.dense"], ratio=0.8, progress=False)
    save_tensorized(base, tmp_path / "trains", tokenizer=AutoTokenizer.from_pretrained(tmp_path / "model"))
    kind = find_kind("embed")
    loaded, tokenizer = kind.load(str(tmp_path / "trains"), kind.configure(str(tmp_path / "trains"), None))
    ids = tokenizer("the film was sad", return_tensors="pt")
    with torch.no_grad():
        expected = base.eval()(**ids).last_hidden_state
        assert torch.equal(kind.core(loaded)(**ids).last_hidden_state, expected)
    file = save_rows(tmp_path / "rows.jsonl", partners(16))
    result = finetune(
        FinetuneSettings(
            str(tmp_path / "trains"), str(tmp_path / "run"), method, train=file, validation=file, kind="embed",
            epochs=6, batch_size=8, max_length=16, learning_rate=1e-2, device="cpu",
        )
    )  # fmt: skip
    assert result.losses[-1][1] < result.losses[0][1]
    assert evaluate(tmp_path / "run", file).measures == result.after
    again, trained = ttnet_llm.load(tmp_path / "run")[0], load_finetuned(tmp_path / "run")[0]
    trains = [sum(isinstance(module, TTLinear) for module in model.modules()) for model in (base, again)]
    assert trains[0] == trains[1] > 0
    assert np.array_equal(again.encode(["sad"]), trained.encode(["sad"]))
