"""Every case in a process of its own, with bounds on time and memory."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.behaviours import machinery, numerics, solving, values  # noqa: F401 (they register their cases)
from benchmarks.behaviours.judging import BEHAVIOURS, Behaviour, Wrong
from benchmarks.behaviours.libraries import LIBRARIES, Absent, Library

SECONDS = 60  # of a processor, whatever else the machine does,
PATIENCE = 10  # and so many times as many by the clock
SLOW = 20  # seconds by the clock, from which on a case is told of
VERDICTS = ("ok", "wrong", "error", "absent")  # the best first
GIBIBYTES = 4  # beyond what the process holds after its imports


@dataclass(frozen=True)
class Outcome:
    behaviour: str
    verdict: str  # one of VERDICTS
    detail: str = ""
    message: str = ""  # an error's own words, for --explain


def run_apart(name: str, only: str) -> tuple[str, list[Outcome]]:
    """Run a library's cases in an interpreter that has loaded no other; give its version and what came out."""
    command = [sys.executable, "-m", "benchmarks.behaviours", "--inside", name, "--only", only]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    lines, began = [], time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                lines.append(json.loads(line))
                if (took := time.monotonic() - began) > SLOW:
                    print(f"  {lines[-1].get('behaviour', 'the import')} took {took:.0f} s", flush=True)
                began = time.monotonic()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return lines[0]["version"], [Outcome(**line) for line in lines[1:]]


def run_inside(name: str, only: str) -> Iterator[str]:
    """Run a library's cases, each in a fork of this process; give lines of JSON, the version first."""
    warnings.simplefilter("ignore")
    library = LIBRARIES[name]()
    yield json.dumps({"version": library.version})
    for behaviour in BEHAVIOURS:
        if only in behaviour.name:
            outcomes = [_run(variant, behaviour) for variant in library.variants()]
            yield json.dumps(asdict(min(outcomes, key=lambda outcome: VERDICTS.index(outcome.verdict))))


def _run(library: Library, behaviour: Behaviour) -> Outcome:
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_case, args=(library, behaviour, sender))
    process.start()
    sender.close()
    try:
        told = receiver.recv() if receiver.poll(PATIENCE * SECONDS) else ("error", f"no answer in {SECONDS} s")
    except EOFError:
        process.join()
        late = process.exitcode == -signal.SIGXCPU
        told = ("error", f"no answer in {SECONDS} s" if late else f"died with code {process.exitcode}")
    process.kill()
    process.join()
    return Outcome(behaviour.name, *told)


def _case(library: Library, behaviour: Behaviour, sender: Connection) -> None:
    for stream in (sys.stdout, sys.stderr):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    held = int(re.search(r"^VmSize:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)[1]) * 1024
    limit = held + GIBIBYTES * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
    try:
        sender.send(("ok", behaviour.check(library) or ""))
    except Absent:
        sender.send(("absent", ""))
    except Wrong as wrong:
        sender.send(("wrong", str(wrong)))
    except Exception as error:
        memory = isinstance(error, MemoryError) or "allocate memory" in str(error)
        detail = f"more than {GIBIBYTES} GiB" if memory else type(error).__name__
        sender.send(("error", detail, traceback.format_exc()))
