"""Ultra-small tensor-network adapters for Hugging Face models.

Importing this package makes its methods known to PEFT, and tensorised models to transformers; from then on their
ordinary names work with them. The public names are those of `__init__.pyi`; each is imported when it is first used.
"""

import sys
from pathlib import Path

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

# The command answers to --help without PEFT, and makes the methods known when it runs.
if Path("".join(sys.argv[:1])).stem != "ttnet-llm":
    from ttnet_llm import loretta_adp, networks, tensorize  # noqa: F401
