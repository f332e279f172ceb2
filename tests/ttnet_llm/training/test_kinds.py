"""Every method trains every kind, and what was saved says the same once it is loaded."""

import re

import numpy as np
import pytest

from tests.ttnet_llm.tiny import rows, save_model, save_rows
from tests.ttnet_llm.training.test_causal import pairs, save_language_model
from tests.ttnet_llm.training.test_choices_kind import asked
from tests.ttnet_llm.training.test_embed import partners
from tests.ttnet_llm.training.test_seq2seq import documents, save_writer
from tests.ttnet_llm.training.test_several import reviews
from tests.ttnet_llm.training.test_tokens import sentences
from ttnet.errors import TTValueError
from ttnet_llm.command_line.finetune import KIND_HELP, MEASURE_HELP, words_of
from ttnet_llm.training import METHODS, FinetuneSettings, evaluate, finetune, settings
from ttnet_llm.training.kinds import KINDS
from ttnet_llm.training.metrics import KNOWN

RATED = [{"text": row["text"], "score": 4.5 if row["label"] == "good" else 0.5} for row in rows(16)]
DATA = {
    "classify": ("encoder", rows(16)),
    "regress": ("encoder", RATED),
    "several": ("encoder", reviews(16)),
    "causal": ("decoder", pairs(16)),
    "seq2seq": ("writer", documents(16)),
    "tokens": ("encoder", sentences(16)),
    "embed": ("encoder", partners(16)),
    "choices": ("decoder", asked(16)),
}
NAMES = {"several": "classify"}  # where a kind takes different data
HEADLESS = ("causal", "seq2seq", "embed", "choices")
READ_AND_WRITE_IN_ONE = ("causal", "choices")  # which DePT is refused for
# One of each method's pairings runs always, and the others take their time.
ALWAYS = {method: list(DATA)[k % len(DATA)] for k, method in enumerate(METHODS)} | {"dept": "classify"}
PAIRINGS = [
    pytest.param(method, kind, marks=() if kind == ALWAYS[method] else pytest.mark.slow)
    for method in METHODS
    for kind in DATA
    if not (method == "head" and kind in HEADLESS) and not (method == "dept" and kind in READ_AND_WRITE_IN_ONE)
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")
    save_model(folder / "encoder")
    save_language_model(folder / "decoder")
    save_writer(folder / "writer")
    for kind, (_, records) in DATA.items():
        save_rows(folder / f"{kind}.jsonl", records)
    return folder


def make(place, output, kind, **changes):
    file = str(place / f"{kind}.jsonl")
    return FinetuneSettings(
        str(place / DATA[kind][0]), str(output), train=file, validation=file, kind=NAMES.get(kind, kind), epochs=1,
        batch_size=16, max_length=32, learning_rate=1e-2, device="cpu", **changes,
    )  # fmt: skip


def test_every_kind_is_tried():
    assert [name for name in DATA if name not in NAMES] == list(KINDS) == list(settings.KINDS)


def test_the_help_names_all_kinds_and_measures():
    assert words_of(KIND_HELP)("") == list(KINDS)
    assert set(KNOWN) <= set(re.findall(r"\w+", MEASURE_HELP))


@pytest.mark.parametrize(("method", "kind"), PAIRINGS)
def test_every_method_trains_every_kind(place, tmp_path, method, kind):
    result = finetune(make(place, tmp_path / "run", kind, method=method))
    assert (result.kind, result.steps) == (NAMES.get(kind, kind), 1)
    assert result.parameters.trainable > 0
    found = evaluate(tmp_path / "run", place / f"{kind}.jsonl")
    assert found.measures == result.after
    written = np.load(tmp_path / "run" / KINDS[result.kind].outputs_file)
    assert np.array_equal(found.logits, written, equal_nan=True)
    assert len(found.predictions) == 16


@pytest.mark.parametrize("kind", HEADLESS)
def test_a_kind_without_a_head_has_nothing_else_to_train(place, tmp_path, kind):
    with pytest.raises(TTValueError, match=f"'head', which leaves nothing to train, as models of the kind {kind} have"):
        finetune(make(place, tmp_path / "run", kind, method="head"))
    assert not list(tmp_path.iterdir())
