"""`ttnet-llm predict`, `generate`, `chat` and `evaluate`, on models that were trained in no time."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from peft import get_peft_model
from typer.testing import CliRunner

import ttnet_llm
from tests.ttnet_llm import models
from tests.ttnet_llm.models import perturb
from tests.ttnet_llm.tiny import rows, save_model, save_rows
from ttnet.errors import TTFileError, TTTypeError, TTValueError
from ttnet_llm import LorettaRepConfig
from ttnet_llm.command_line.cli import app
from ttnet_llm.inference import Generation, Predictor, generate
from ttnet_llm.inference.records import take_inputs, writing
from ttnet_llm.training.details import Columns
from ttnet_llm.training.tables import Table

TEMPLATE = (
    "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}{% if add_generation_prompt %}the{% endif %}"
)


def run(*arguments: object, **options: Any) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "80"}, **options)
    return done.exit_code, done.stdout, " ".join(done.stderr.split())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three classes, and language models with a template for chats and without."""
    folder = tmp_path_factory.mktemp("using")
    save_model(folder / "model")
    data = [{**row, "label": ("good", "bad", "so-so")[k % 3]} for k, row in enumerate(rows(24))]
    save_rows(folder / "train.jsonl", data)
    save_rows(folder / "new.jsonl", [{"id": k, "text": row["text"]} for k, row in enumerate(rows(7))])
    code, _, error = run(
        "finetune", folder / "model", "--train", folder / "train.jsonl", "--validation", folder / "train.jsonl",
        "--epochs", 1, "--output", folder / "run", "--quiet",
    )  # fmt: skip
    assert code == 0
    assert error.startswith("Note: Nothing was gained: the accuracy is 0.3333 after training, 0.3333 before.")
    tokenizer = tf.AutoTokenizer.from_pretrained(folder / "model")
    tokenizer.eos_token = "[SEP]"
    for name, template in (("raw", None), ("chat", TEMPLATE)):
        tokenizer.chat_template = template
        tokenizer.save_pretrained(folder / name)
        models.llama().save_pretrained(folder / name)
    return folder


def test_classes_beside_the_inputs(place: Path, tmp_path: Path) -> None:
    model, tokenizer = ttnet_llm.load(place / "run")
    texts = [str(row["text"]) for row in rows(7)]
    with torch.no_grad():
        expected = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.softmax(1)
    code, output, error = run("predict", place / "run", "--data", place / "new.jsonl", "--batch-size", 3)
    assert code == 0, error
    records = [json.loads(line) for line in output.splitlines()]
    assert [record["id"] for record in records] == list(range(7))
    names = ["bad", "good", "so-so"]
    for record, shares in zip(records, expected, strict=True):
        assert list(record["probabilities"]) == names
        torch.testing.assert_close(torch.tensor(list(record["probabilities"].values())), shares)
        assert record["prediction"] == names[int(shares.argmax())]
        assert record["probability"] == max(record["probabilities"].values())
    code, output, error = run("predict", place / "run", "--data", place / "new.jsonl", "--output", tmp_path / "a.csv")
    assert (code, output) == (0, f"Saved in {tmp_path / 'a.csv'}: 7 rows.\n"), error
    with (tmp_path / "a.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["id", "text", "prediction", "probability", *(f"probability of {name}" for name in names)]
    assert [row["prediction"] for row in table] == [record["prediction"] for record in records]


def test_texts_that_are_typed_in(place: Path) -> None:
    code, output, _ = run("predict", place / "run", "--text", "the film was good", "--text", "the book [was] sad")
    assert code == 0
    assert "the book [was] sad" in output
    assert "%" in output
    code, output, _ = run("predict", place / "run", "--text", "the film was good", "--json")
    assert json.loads(output)["prediction"] in ("bad", "good", "so-so")


def test_an_interrupted_prediction_leaves_no_file(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(self: Any, batch: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Predictor, "_of_whole_texts", stop)
    code, _, error = run("predict", place / "run", "--data", place / "new.jsonl", "--output", tmp_path / "a.jsonl")
    assert (code, error) == (130, "Error: Interrupted; run the command again.")
    assert not list(tmp_path.iterdir())


def test_numbers_tags_and_several_labels(place: Path) -> None:
    tokenizer = tf.AutoTokenizer.from_pretrained(place / "model")
    fields = {"num_labels": 1, "problem_type": "regression"}
    rating = tf.AutoModelForSequenceClassification.from_pretrained(place / "model", **fields)
    (found,) = Predictor(rating, tokenizer)([("the film", "was good")])
    assert isinstance(found["prediction"], float)
    fields = {"id2label": {0: "a", 1: "b", 2: "c"}, "problem_type": "multi_label_classification"}
    several = tf.AutoModelForSequenceClassification.from_pretrained(place / "model", **fields)
    with torch.no_grad():
        several.classifier.bias.copy_(torch.tensor([9.0, -9.0, 9.0]))
    (found,) = Predictor(several, tokenizer)(["the film"])
    assert found["prediction"] == ["a", "c"]
    assert found["probabilities"]["b"] < 0.01
    tagging = tf.AutoModelForTokenClassification.from_pretrained(place / "model", id2label={0: "O", 1: "X"})
    predictor = Predictor(tagging, tokenizer, max_length=4)
    one, other = predictor(["the film was", ["book", "good"]])
    assert one["words"] == ["the", "film", "was"]
    assert one["prediction"][2] is None  # cut off
    assert set(one["prediction"][:2]) | set(other["prediction"]) <= {"O", "X"}


def test_generation_is_that_of_the_model(place: Path) -> None:
    model, tokenizer = ttnet_llm.load(place / "raw")
    ids = tokenizer("the film", return_tensors="pt")["input_ids"][:, :-1]  # without the end
    expected = model.generate(ids, max_new_tokens=5, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
    expected = tokenizer.decode(expected, skip_special_tokens=True).strip()
    options = ("--max-new-tokens", 5)
    code, output, error = run("generate", place / "raw", "--prompt", "the film", *options)
    assert (code, output) == (0, f"{expected}\n"), error
    code, output, _ = run("generate", place / "raw", "--prompt", "the film", "--prompt", "book", *options, "--json")
    assert json.loads(output)["texts"][0] == expected  # whatever it is padded with
    drawn = [
        run("generate", place / "raw", "--prompt", "the", "--temperature", 2, "--seed", 3, *options)[1] for _ in "ab"
    ]
    assert drawn[0] == drawn[1]
    code, output, error = run("generate", place / "chat", "--prompt", "film", "--system", "good", *options)
    assert code == 0, error
    turns = [{"role": "system", "content": "good"}, {"role": "user", "content": "film"}]
    assert output.strip() == generate(*ttnet_llm.load(place / "chat"), [turns], Generation(max_new_tokens=5))[0]
    (record,) = Predictor(model, tokenizer, generation=Generation(max_new_tokens=5))(["the film"])
    assert record == {"prediction": expected}


def test_encoders_and_decoders_write_what_the_decoder_says() -> None:
    class Tokenizer:
        """Numbers for words."""

        pad_token_id = eos_token_id = 1

        def __call__(self, text: str) -> dict[str, list[int]]:
            return {"input_ids": [*map(int, text.split()), 1]}

        def pad(self, batch: Any, **_: Any) -> Any:
            return tf.BatchEncoding({"input_ids": torch.tensor(batch["input_ids"])})

        def batch_decode(self, ids: Any, **_: Any) -> list[str]:
            return [" ".join(map(str, row.tolist())) for row in ids]

    model = models.t5()
    (text,) = generate(model, Tokenizer(), ["5 6"], Generation(max_new_tokens=3))
    expected = model.generate(torch.tensor([[5, 6, 1]]), max_new_tokens=3, do_sample=False, pad_token_id=1)[0]
    assert text == " ".join(map(str, expected.tolist()))
    assert generate(model, Tokenizer(), []) == []


def test_a_chat_remembers_and_begins_anew(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ttnet_llm.inference as inference

    seen: list[Any] = []

    def answer(model: Any, tokenizer: Any, prompts: list[Any], *_: Any, **__: Any) -> list[str]:
        seen.append([turn["content"] for turn in prompts[0]])
        return [f"answer {len(seen)}"]

    monkeypatch.setattr(inference, "generate", answer)
    said = "one\ntwo\n/new\nthree\n\nfour\n"
    code, output, error = run("chat", place / "chat", "--system", "be good", input=said)
    assert (code, output.splitlines()) == (0, ["answer 1", "answer 2", "answer 3"]), error
    assert seen == [["be good", "one"], ["be good", "one", "answer 1", "two"], ["be good", "three"]]
    code, output, _ = run("chat", place / "chat", input="")
    assert (code, output) == (0, "")


def test_evaluate_says_the_same_to_people_and_to_scripts(place: Path) -> None:
    code, output, _ = run("evaluate", place / "run", "--data", place / "train.jsonl", "--json")
    found = json.loads(output)
    assert (code, found["examples"]) == (0, 24)
    code, output, _ = run("evaluate", place / "run", "--data", place / "train.jsonl")
    assert f"{found['accuracy']:.4f}" in output
    code, output, _ = run("evaluate", place / "run", "--data", place / "train.jsonl", "--quiet")
    assert (code, output) == (0, "")


def test_mistakes_get_a_sentence(place: Path, tmp_path: Path) -> None:
    data = place / "new.jsonl"
    save_rows(tmp_path / "two.jsonl", [{"a": "good", "b": "bad"}])
    two = tmp_path / "two.jsonl"
    for arguments, message in [
        (("predict", place / "run"), "Say either --data FILE or --text TEXT"),
        (("predict", place / "run", "--data", data, "--text", "x"), "Say either --data FILE or --text TEXT"),
        (("predict", place / "run", "--data", data, "--output", "a.txt"), "expected a file ending in .csv or .jsonl"),
        (("predict", place / "run", "--data", data, "--output", data), "would be replaced, and with it"),
        (("predict", place / "run", "--data", data, "--text-column", "x"), "has no column 'x'; its columns are id, t"),
        (("predict", place / "run", "--data", two), "Which column of"),
        (("predict", place / "run", "--data", data, "--batch-size", 0), "batch_size is 0; expected"),
        (("predict", place / "run", "--data", data, "--max-length", 0), "max_length is 0; expected"),
        (("predict", place / "model", "--data", data), "is a BertModel, which says nothing of a text"),
        (("predict", place / "run", "--data", data, "--dtype", "int8"), "dtype is 'int8'; expected one of float32"),
        (("predict", place / "run", "--data", data, "--device", "gpu"), "device is 'gpu', which cannot be used here"),
        (("predict", tmp_path / "nowhere", "--data", data), "There is no folder"),
        (("generate", place / "run", "--prompt", "x"), "is a BertForSequenceClassification, which writes no texts"),
        (("generate", place / "raw", "--prompt", " "), "A prompt is empty"),
        (("generate", place / "raw", "--prompt", "x", "--system", "y"), "has no template for chats"),
        (("generate", place / "chat", "--prompt", "x", "--system", "y", "--raw"), "leave out one of the two"),
        (("generate", place / "raw", "--prompt", "x", "--max-new-tokens", 0), "max_new_tokens is 0; expected"),
        (("generate", place / "raw", "--prompt", "x", "--temperature", -1), "temperature is -1.0; expected"),
        (("generate", place / "raw", "--prompt", "x", "--top-p", 0), "top_p is 0.0; expected"),
        (("chat", place / "raw"), "has no template for chats; use `ttnet-llm generate`"),
        (("evaluate", place / "run", "--data", data), "has no column"),
    ]:
        code, output, error = run(*arguments)
        assert code == 1, (arguments, output, error)
        assert message in error, arguments
        assert "Traceback" not in error


def test_inputs_are_found_in_tables() -> None:
    chats = Table("a.jsonl", {"messages": [[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "!"}]]})
    assert take_inputs(chats, "texts") == [[{"role": "user", "content": "Hi"}]]
    as_text = Table("a.csv", {"chat": [json.dumps(chats.columns["messages"][0])]}, typed=False)
    assert take_inputs(as_text, "texts") == [[{"role": "user", "content": "Hi"}]]
    assert take_inputs(as_text, "texts", trained=Columns(messages="chat")) == [[{"role": "user", "content": "Hi"}]]
    questions = Table("a.jsonl", {"question": ["Why?"], "answer": ["So."]})
    assert take_inputs(questions, "texts") == ["Why?"]
    assert take_inputs(questions, "classes", asked=("question", "answer")) == [("Why?", "So.")]
    assert take_inputs(questions, "classes", trained=Columns(text=("answer",))) == ["So."]
    with pytest.raises(TTValueError, match="is said to be 3 columns"):
        take_inputs(Table("a.csv", {name: ["x"] for name in "abc"}), "classes", asked=("a", "b", "c"))
    with pytest.raises(TTValueError, match=r"Row 2 of 'a.jsonl' holds no list of words"):
        take_inputs(Table("a.jsonl", {"words": [["x"], "y"]}), "tags")


def test_what_writes_and_predicts_needs_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(TTTypeError, match="tokenizer is None; load it with"):
        generate(models.llama(), None, ["x"])
    with pytest.raises(TTTypeError, match="has no tokenizer that can be loaded"):
        Predictor(models.llama(), None)
    with pytest.raises(TTFileError, match=r"expected a file ending in \.csv or \.jsonl"), writing(tmp_path / "a.txt"):
        pass


def test_the_answers_of_an_adapter_are_its_own(place: Path, tmp_path: Path) -> None:
    base = tf.AutoModelForCausalLM.from_pretrained(place / "raw")
    perturb(get_peft_model(base, LorettaRepConfig(task_type="CAUSAL_LM")), spread=1.0).save_pretrained(tmp_path / "a")
    how = Generation(max_new_tokens=8)
    model, tokenizer = ttnet_llm.load(tmp_path / "a")
    texts = generate(model, tokenizer, ["the film"], how)
    with model.disable_adapter():
        assert generate(model, tokenizer, ["the film"], how) != texts
    code, output, _ = run("generate", tmp_path / "a", "--prompt", "the film", "--max-new-tokens", 8)
    assert (code, output.strip()) == (0, texts[0])
