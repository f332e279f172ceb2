"""Run the benchmarks that `make bench` repeats: those of this environment, or with `--peers` those beside others'.

The peers are libraries of trains from PyPI; `make peers` makes an environment that has them and lacks transformers.
"""

import importlib
import sys

OWN = ("contraction", "step_time", "turning", "expert_memory", "linear_layer", "tt_maps")
BESIDE_PEERS = ("rounding", "tt_svd", "layers", "solvers")

if __name__ == "__main__":
    for name in BESIDE_PEERS if "--peers" in sys.argv[1:] else OWN:
        importlib.import_module(f"benchmarks.{name}").main()
