"""Load a saved adapter in a process that knows nothing of its training, and write its predictions.

Run as `python -m demo.reload ADAPTER DATA LOGITS`.
"""

from __future__ import annotations

import sys

import numpy as np

from ttnet_llm.training import evaluate
from ttnet_llm.training.progress import quiet_libraries


def main(adapter: str, data: str, logits: str) -> None:
    """Write the logits of `adapter` for the texts in `data` to the file `logits`."""
    quiet_libraries()
    np.save(logits, evaluate(adapter, data).logits)


if __name__ == "__main__":
    main(*sys.argv[1:])
