"""What tensor-train libraries do with easy, hard and impossible input, side by side.

`make peers` installs the libraries; `.venv-peers/bin/python -m benchmarks.behaviours` tries every behaviour in each of
them and writes the tables of docs/comparison.md.

- `libraries.py`: one adapter a library, with its documented way to do each operation;
- `judging.py`: how a case tells what it saw;
- `numerics.py`, `values.py`, `machinery.py`: the cases, one small function each, written against the adapters;
- `running.py`: every case in a process of its own, with bounds on time and memory, so that a crash is a result too.
"""
