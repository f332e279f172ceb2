"""The loss of questions with choices against a plain reference, and questions in tokens and batches."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tests.ttnet_llm.models import gpt2, llama, t5
from ttnet.errors import TTValueError
from ttnet_llm.training.choices import (
    ChoiceCollator,
    ChoiceLoss,
    Question,
    Template,
    ask_in_all_words,
    encode,
    few_shot,
    rank_classify,
)

WORDS = ["<pad>", "</s>", "<s>", "<unk>", "good", "bad", "film", "was", "it", "the", "very", "nice", "song"]


def make_tokenizer(pad="<pad>", begin="", end=""):
    tokenizer = Tokenizer(models.WordLevel({word: k for k, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    specials = [("<s>", 2), ("</s>", 1)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}".strip(), special_tokens=specials
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@st.composite
def batches(draw):
    """Logits in float64 and the tokens of ragged choices, put into labels as a collator would."""
    examples = [
        [draw(st.integers(1, 4)) for _ in range(draw(st.integers(1, 4)))] for _ in range(draw(st.integers(1, 3)))
    ]
    shift = draw(st.booleans())
    before, vocabulary, most = draw(st.integers(1, 3)), 7, max(map(len, examples))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    length = before + max(max(lengths) for lengths in examples)
    labels = torch.full((len(examples), most, length), -100)
    for k, lengths in enumerate(examples):
        for j, tokens in enumerate(lengths):
            labels[k, j, before : before + tokens] = torch.randint(vocabulary, (tokens,), generator=generator)
    rows = sum(map(len, examples))
    logits = 3 * torch.randn(rows, length, vocabulary, dtype=torch.float64, generator=generator)
    return logits, labels, shift, examples


def reference(logits, labels, shift, examples, floor=1e-2, length_norm=1.0):
    """Token by token, by definition."""
    row, lm, unlikely, ranked = 0, [], [], []
    for k, lengths in enumerate(examples):
        scores = []
        for j in range(len(lengths)):
            of_tokens = []
            for t, token in enumerate(labels[k, j].tolist()):
                if token != -100:
                    numbers = [math.exp(x) for x in logits[row, t - shift].tolist()]
                    of_tokens.append(math.log(numbers[token] / sum(numbers)))
            (lm if j == 0 else unlikely).extend(-x if j == 0 else -math.log(1 - math.exp(x) + floor) for x in of_tokens)
            scores.append(sum(of_tokens) / len(of_tokens) ** length_norm)
            row += 1
        ranked.append(math.log(sum(math.exp(x) for x in scores)) - scores[0])
    return sum(lm) / len(lm), sum(unlikely) / max(1, len(unlikely)), sum(ranked) / len(ranked)


@given(batches(), st.sampled_from([1e-2, 0.5]), st.sampled_from([0.0, 0.5, 1.0]))
def test_each_part_is_a_loop_over_tokens(batch, floor, length_norm):
    logits, labels, shift, examples = batch
    loss = ChoiceLoss(floor=floor, length_norm=length_norm, shift=shift)
    expected = reference(*batch, floor, length_norm)
    assert [float(part) for part in loss.parts(logits, labels)] == pytest.approx(expected, abs=1e-10)
    # In float32 and in half the precision, of whose logits log-probabilities are wider.
    single = loss.parts(logits.float(), labels)
    assert [float(part) for part in single] == pytest.approx(expected, rel=2e-5, abs=2e-5)
    half = logits.bfloat16()
    assert loss(SimpleNamespace(logits=half), labels).dtype == torch.float32
    expected = reference(half.double(), labels, shift, examples, floor, length_norm)
    assert [float(part) for part in loss.parts(half, labels)] == pytest.approx(expected, rel=2e-5, abs=2e-5)


@given(batches(), st.floats(0.0, 3.0), st.floats(0.0, 3.0))
def test_parts_are_weighed_and_divided_by_what_a_step_counts(batch, unlikelihood, ranking):
    logits, labels, shift, examples = batch
    loss = ChoiceLoss(unlikelihood, ranking, shift=shift)
    lm, unlikely, ranked = reference(*batch)
    outputs = SimpleNamespace(logits=logits)
    whole = lm + unlikelihood * unlikely + ranking * ranked
    assert float(loss(outputs, labels)) == pytest.approx(whole, abs=1e-9)
    counts = loss.count(labels)
    assert counts.tolist() == [sum(e[0] for e in examples), sum(sum(e[1:]) for e in examples), len(examples)]
    assert float(loss(outputs, labels, int(counts[:2].sum()))) == pytest.approx(whole, abs=1e-9)
    # Cut into an example each, the parts of a step are those of all examples together.
    parts, row = 0.0, 0
    for k, lengths in enumerate(examples):
        there = SimpleNamespace(logits=logits[row : row + len(lengths)])
        parts += float(loss(there, labels[k : k + 1], num_items_in_batch=counts))
        row += len(lengths)
    assert parts == pytest.approx(whole, abs=1e-9)


@given(batches())
def test_the_gradient_is_right_and_nothing_else_has_one(batch):
    logits, labels, shift, _ = batch
    loss = ChoiceLoss(shift=shift)
    assert torch.autograd.gradcheck(
        lambda x: loss(SimpleNamespace(logits=x), labels), (logits.requires_grad_(),), fast_mode=True
    )
    loss(SimpleNamespace(logits=logits), labels).backward()
    foretell = torch.zeros(logits.shape[:2], dtype=torch.bool)
    there = labels[(labels != -100).any(-1)] != -100
    foretell[:, : logits.shape[1] - shift] = there[:, shift:]
    assert torch.equal(logits.grad.abs().sum(-1) > 0, foretell)


@pytest.mark.parametrize("score", [30.0, 200.0])
def test_certain_wrong_tokens_have_a_finite_loss(score):
    logits = torch.zeros(2, 2, 4).requires_grad_()
    labels = torch.tensor([[[-100, 1], [-100, 2]]])
    with torch.no_grad():
        logits[1, 0, 2] = score
    (_, unlikely, _) = ChoiceLoss().parts(logits, labels)
    assert float(unlikely.detach()) == pytest.approx(-math.log(1e-2), rel=1e-4)
    unlikely.backward()
    assert torch.isfinite(logits.grad).all()


def test_without_a_floor_it_is_the_papers():
    logits = torch.zeros(2, 2, 4, dtype=torch.float64)
    logits[1, 0, 2] = 30.0
    labels = torch.tensor([[[-100, 1], [-100, 2]]])
    # As precise as log(p) is, where 1 - p has few digits left.
    exact = -math.log(3 / (3 + math.exp(30.0)))
    assert float(ChoiceLoss(floor=0.0).parts(logits, labels)[1]) == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize("build", [llama, gpt2, t5])
def test_the_first_part_is_the_loss_of_transformers(build):
    model, tokenizer = build(), make_tokenizer()
    decodes = model.config.is_encoder_decoder
    questions = [Question("the film was", (" good", " very bad"), 1), Question("it was", (" nice", " bad"), 0)]
    rows = [encode(tokenizer, each.right_first(), encoder_decoder=decodes) for each in questions]
    batch = ChoiceCollator(tokenizer, model)(rows)
    labels = batch.pop("labels")
    loss = ChoiceLoss(0.0, 0.0, shift=not decodes)
    with torch.no_grad():
        outputs = model(**batch)
        # Theirs counts the right choices alone where the others' labels are ignored.
        right = torch.where(torch.tensor([True, False, True, False])[:, None], labels.flatten(0, 1), -100)
        expected = model(**batch, labels=right).loss
    assert float(loss(outputs, labels)) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("build", [llama, gpt2, t5])
@pytest.mark.parametrize("pad", ["<pad>", "nice", "</s>", None])
def test_what_stands_in_for_padding_makes_no_difference(build, pad):
    model = build().double()
    decodes = model.config.is_encoder_decoder
    questions = [
        Question("the film was", (" good", " very very nice </s>", " bad"), 1),
        Question("it", (" was the nice song", " was bad"), 0),
    ]

    def loss_of(chosen, tokenizer):
        rows = [encode(tokenizer, each.right_first(), encoder_decoder=decodes) for each in chosen]
        batch = ChoiceCollator(tokenizer, model)(rows)
        labels = batch.pop("labels")
        return ChoiceLoss(shift=not decodes).sums(model(**batch).logits, labels)

    with torch.no_grad():
        padded = loss_of(questions, make_tokenizer(pad))
        alone = [loss_of([question], make_tokenizer()) for question in questions]
    torch.testing.assert_close(padded, tuple(map(sum, zip(*alone, strict=True))), rtol=0, atol=1e-6)


@pytest.mark.parametrize("build", [llama, t5])
def test_questions_are_ranked_as_by_hand(build):
    model, tokenizer = build(), make_tokenizer(end="</s>" if build is t5 else "")
    questions = [
        Question("the film was", (" good", " very bad", " nice")),
        Question("it", (" was the nice song", " was bad")),
        Question("the very nice song", (" was", " film", " bad it")),
    ]
    done = []
    found = rank_classify(model, tokenizer, questions, batch_size=2, on_batch=done.append)
    assert done == [2, 3]
    for question, scores in zip(questions, found, strict=True):
        by_hand = []
        for choice in question.choices:
            ids = [WORDS.index(word) for word in question.prompt.split()]
            answer = [WORDS.index(word) for word in choice.split()]
            with torch.no_grad():
                if build is t5:
                    answer, ids = [*answer, 1], [*ids, 1]
                    logits = model(torch.tensor([ids]), decoder_input_ids=torch.tensor([[0, *answer[:-1]]])).logits[0]
                else:
                    logits = model(torch.tensor([ids + answer])).logits[0, len(ids) - 1 : -1]
            picked = logits.double().log_softmax(-1)[range(len(answer)), answer]
            by_hand.append(float(picked.mean()))
        assert scores[: len(by_hand)] == pytest.approx(by_hand, abs=1e-5)
        assert np.isneginf(scores[len(by_hand) :]).all()


def test_choices_begin_where_all_of_them_part_from_the_prompt():
    tokenizer = make_tokenizer(begin="<s>")
    rows = encode(tokenizer, Question("the film", (" was good", " was bad it")))
    assert rows["input_ids"] == [[2, 9, 6, 7, 4], [2, 9, 6, 7, 5, 8]]
    assert rows["labels"] == [[-100] * 3 + [7, 4], [-100] * 3 + [7, 5, 8]]
    # The tokenizer joins "fil" and "m", but not "fil" and "s": what differs belongs to the choices in both.
    vocabulary = {"<unk>": 0, "fil": 1, "m": 2, "film": 3, "s": 4, "x": 5, "f": 6, "i": 7, "l": 8, "fi": 9}
    merged = Tokenizer(models.BPE(vocabulary, [("f", "i"), ("fi", "l"), ("fil", "m")], unk_token="<unk>"))
    joined = encode(PreTrainedTokenizerFast(tokenizer_object=merged), Question("xfil", ("m", "s")))
    assert joined == {"input_ids": [[5, 3], [5, 1, 4]], "labels": [[-100, 3], [-100, 1, 4]]}


def test_long_prompts_are_cut_alike_for_all_choices():
    tokenizer = make_tokenizer(begin="<s>")
    question = Question("the film it was very", (" good", " very bad"))
    assert encode(tokenizer, question, max_length=5)["input_ids"] == [[2, 7, 10, 4], [2, 7, 10, 10, 5]]
    assert encode(tokenizer, question, max_length=3)["input_ids"] == [[10, 4], [10, 10, 5]]  # no room to begin
    assert encode(make_tokenizer(), question, max_length=4)["input_ids"] == [[7, 10, 4], [7, 10, 10, 5]]
    read = encode(make_tokenizer(end="</s>"), question, max_length=3, encoder_decoder=True)
    assert read == {"input_ids": [[9, 6, 1]] * 2, "labels": [[4, 1], [10, 5, 1]]}
    assert encode(make_tokenizer(), question, encoder_decoder=True)["labels"] == [[4, 1], [10, 5, 1]]


@pytest.mark.parametrize("build", [llama, t5])
def test_what_is_asked_in_several_words_is_scored_by_the_mean_over_them(build):
    model, tokenizer = build(), make_tokenizer()
    words = {"neg": "bad", "pos": "good"}
    templates = [Template(text, words) for text in ("the {x} was {}", "it was very {} the {x}", "very {}")]
    nouns = ("film", "song", "film", "song")
    asked = [ask_in_all_words(templates[: 1 + k % 3], {"x": x}, right=k % 2) for k, x in enumerate(nouns)]
    found = rank_classify(model, tokenizer, asked, batch_size=2)
    for question, scores in zip(asked, found, strict=True):
        alone = [rank_classify(model, tokenizer, [wording])[0] for wording in question.wordings]
        np.testing.assert_allclose(scores, np.mean(alone, axis=0), rtol=0, atol=1e-5)
    assert [len(question.wordings) for question in asked] == [1, 2, 3, 1]
    assert all(wording.right == question.right for question in asked for wording in question.wordings)
    unlike = rank_classify(model, tokenizer, [Question("it", (" good", " bad", " nice")), asked[1]])
    assert unlike[1, 2] == -np.inf
    with pytest.raises(TTValueError, match="expected the same question in other words: 2 choices, 0 the right one"):
        Question("it", ("good", "bad"), 0, others=(Question("it", ("good", "bad"), 1),))
    with pytest.raises(TTValueError, match="with 3 choices, of which None is right"):
        Question("it", ("good", "bad"), others=(Question("it", ("good", "bad", "nice")),))


def test_templates_make_questions():
    template = Template("{title}: {{{text}}} is {} said {title}.", {"neg": "bad", "pos": "good"})
    assert template.fields == ("title", "text")
    question = template.ask({"title": 7, "text": "a film"}, label="pos")
    assert question == Question("7: {a film} is", (" bad said 7.", " good said 7."), 1, ("neg", "pos"))
    assert question.right_first() == Question("7: {a film} is", (" good said 7.", " bad said 7."), 0, ("pos", "neg"))
    asked = Template("{q}\n{}").ask({"q": "Why?"}, ["so", "thus"], right=0)
    assert asked == Question("Why?\n", ("so", "thus"), 0)
    assert asked.given == "Why?\n"


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(0, 9), st.data())
def test_few_examples_are_balanced_and_drawn_by_the_seed(labels, seed, data):
    k = data.draw(st.integers(1, len(labels)))
    rows = few_shot(labels, k, seed=seed)
    assert rows == sorted(set(rows)) == few_shot(labels, k, seed=seed)
    assert len(rows) == len(few_shot(labels, k, seed=seed, balanced=False)) == k
    drawn = {label: sum(labels[row] == label for row in rows) for label in set(labels)}
    # A class has less than another only by one, or because there are no more of it.
    for label, count in drawn.items():
        assert count == labels.count(label) or count >= max(drawn.values()) - 1


def test_seeds_draw_others():
    labels = [k % 2 for k in range(100)]
    assert len({tuple(few_shot(labels, 32, seed=seed)) for seed in (42, 1024, 0, 1, 32)}) == 5
    assert len({tuple(few_shot(labels, 32, seed=seed, balanced=False)) for seed in range(5)}) == 5


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: ChoiceLoss(unlikelihood=-1.0), "unlikelihood is -1.0; expected a number of at least 0"),
        (lambda: ChoiceLoss(floor=math.nan), "floor is nan; expected"),
        (lambda: Question("a", ("b",)), r"choices is \('b',\); expected at least two, each another"),
        (lambda: Question("a", ("b", "b")), "expected at least two, each another"),
        (lambda: Question("a", ("b", "c"), 2), "right is 2; expected the index of one of 2 choices"),
        (lambda: Question("a", ("b", "c"), 0, ("d",)), "names is .*; expected one for each of 2 choices"),
        (lambda: Question("a", ("b", "c")).right_first(), "right is None in 'a'; say which choice is right"),
        (lambda: encode(make_tokenizer(), Question("", ("good", "bad"))), "No token stands before the choices of ''"),
        (
            lambda: encode(make_tokenizer(), Question("it", (" ", " bad"))),
            "The choice ' ' of 'it' has no tokens; write",
        ),
        (
            lambda: encode(make_tokenizer(), Question("it", (" good", " very bad")), max_length=2),
            "The choice ' very bad' of 'it' has 2 tokens, but 1 fit; raise max_length",
        ),
        (
            lambda: encode(make_tokenizer(), Question("it", ("good", "bad")), max_length=1, encoder_decoder=True),
            "The choice 'good' of 'it' has 2 tokens, but 1 fit",
        ),
        (lambda: rank_classify(llama(), make_tokenizer(), []), "There are 0 questions, and batch_size is 8; expected"),
        (
            lambda: rank_classify(llama(), make_tokenizer(), [Question("it", (" good", " bad"))], batch_size=0),
            "There are 1 questions, and batch_size is 0",
        ),
        (lambda: Template("no place"), "has 0 places for the choice; expected {} once, as in"),
        (lambda: Template("{} or {}"), "has 2 places for the choice"),
        (lambda: Template("{a {}"), "cannot be read: .*; write braces twice"),
        (lambda: Template("{a:>3} {}"), "says how 'a' is written; name the column alone"),
        (lambda: Template("{a!r} {}"), "says how 'a' is written"),
        (lambda: Template("{}", {"0": "bad", "1": "bad"}), "words is .*; expected another word for each class"),
        (
            lambda: Template("{a} {}", {"0": "x", "1": "y"}).ask({"b": 1}),
            "names 'a', but there are b; name one of them",
        ),
        (lambda: Template("{a} {}").ask({"a": 1}), "has 0 words for classes, and 0 choices were given; expected one"),
        (lambda: Template("{a} {}", {"0": "x", "1": "y"}).ask({"a": 1}, ["b", "c"]), "has 2 words for classes, and 2"),
        (
            lambda: Template("{a} {}", {"0": "x", "1": "y"}).ask({"a": 1}, label="2"),
            "label is '2'; expected one of 0, 1",
        ),
        (lambda: few_shot([0, 1], 3), "k is 3; expected an integer from 1 to the number of examples, 2"),
        (lambda: few_shot([0, 1], 0), "k is 0; expected"),
    ],
)
def test_what_cannot_be_is_refused(act, message):
    with pytest.raises(TTValueError, match=message):
        act()


def test_labels_and_logits_of_different_batches_are_refused():
    logits, labels = torch.zeros(2, 3, 5), torch.tensor([[[-100, 1, 2], [-100, 4, -100]]])
    loss = ChoiceLoss()
    with pytest.raises(TTValueError, match=r"logits are of \(1, 2\) rows and tokens, but the labels have \(2, 2\)"):
        loss(SimpleNamespace(logits=logits[:1]), labels)
    with pytest.raises(TTValueError, match="labels have no token of the first choice, the right one, in example 0"):
        loss(SimpleNamespace(logits=logits[:1]), labels.where(torch.tensor([[[False], [True]]]), -100))
    with pytest.raises(TTValueError, match="num_items_in_batch is 9, but the choices of this batch have 3 tokens: a"):
        loss(SimpleNamespace(logits=logits), labels, num_items_in_batch=9)
