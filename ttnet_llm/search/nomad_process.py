"""NOMAD in a process of its own: run as a script, it writes a line for each point it asks for, and reads one back.

A line out is the list of coordinates; a line in is the value, or null for a point that was refused or has failed.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Any

# With those that NOMAD answers itself: among integers alone it would go round for ever.
_EVALUATIONS, _EVALUATIONS_OF_INTEGERS = 20_000, 2_000


def run(task: dict[str, Any], read: Any, write: Any) -> None:
    """Let NOMAD search.

    Args:
        task: `start`: coordinates; `sizes`: so many integers from 0 on for each, or `None` for a number in [0, 1];
            `seed`.
        read: Gives a line.
        write: Takes a line.
    """
    import PyNomad

    sizes = task["sizes"]

    def ask(point: Any) -> int:
        write(json.dumps([point.get_coord(k) for k in range(len(sizes))]))
        line = read()
        if not line:
            os._exit(0)  # nobody listens any more, and an exception here would be a crash
        answer = json.loads(line)
        if answer is None:
            return 0
        point.setBBO(repr(answer).encode())
        return 1

    types = " ".join("R" if size is None else "I" for size in sizes)
    PyNomad.optimize(
        ask,
        task["start"],
        [0] * len(sizes),
        [1 if size is None else size - 1 for size in sizes],
        [
            f"BB_INPUT_TYPE ({types})",
            "BB_OUTPUT_TYPE OBJ",
            f"MAX_EVAL {_EVALUATIONS if None in sizes else _EVALUATIONS_OF_INTEGERS}",
            f"SEED {task['seed']}",
            "DISPLAY_DEGREE 0",
            "DISPLAY_ALL_EVAL false",
        ],
    )


if __name__ == "__main__":
    words = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what NOMAD prints is no answer
    with contextlib.suppress(BrokenPipeError):  # nobody listens any more
        run(json.loads(sys.argv[1]), sys.stdin.readline, lambda line: print(line, file=words, flush=True))
    os._exit(0)  # what C++ takes down at the end is of no use
