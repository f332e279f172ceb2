"""Commands by two processes each, as a launcher would run them, forked from one that has imported everything.

Run by `test_processes.py` as `python -m tests.ttnet_llm.training.forked`: a line of JSON on the standard input tells of
a command, and one on the standard output of how it ended. Imports, which take longer than the runs, are done once.
"""

import json
import os
import runpy
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch.multiprocessing as mp

import tests.ttnet_llm.training.fsdp_on_cpu  # noqa: F401
import ttnet_llm.training.run  # noqa: F401


def work(rank: int, order: dict[str, Any], output: str) -> None:
    """Be one of two processes that run a program's main module."""
    for stream, name in ((sys.stdout, "stdout"), (sys.stderr, "stderr")):
        os.dup2(os.open(f"{output}/{name}-{rank}", os.O_CREAT | os.O_WRONLY), stream.fileno())
    world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {name: str(value) for name, value in world.items()} | order["variables"]
    os.chdir(order["folder"])
    sys.argv = [order["program"], *order["arguments"]]
    runpy.run_module(order["program"], run_name="__main__", alter_sys=True)


def free_port() -> str:
    """Find a port that nobody listens to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def main() -> None:
    """Run commands until there are no more."""
    for line in sys.stdin:
        order = json.loads(line)
        order["variables"]["MASTER_PORT"] = free_port()
        with tempfile.TemporaryDirectory() as output:
            try:
                mp.start_processes(work, (order, output), nprocs=2, start_method="fork")
                failure = ""
            except Exception as error:  # of a worker, which is told to the test
                failure = f"{type(error).__name__}: {error}"
            said = {
                name: "".join((Path(output) / f"{name}-{rank}").read_text() for rank in range(2))
                for name in ("stdout", "stderr")
            }
        sys.stdout.write(json.dumps({"failure": failure} | said) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
