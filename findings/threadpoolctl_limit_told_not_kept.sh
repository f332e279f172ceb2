#!/usr/bin/env bash
# Once torch.set_num_threads has been called, threadpool_limits(1) makes torch say one thread and take two.
#
# Expected: under threadpoolctl's threadpool_limits(1) torch computes with one thread, and torch.get_num_threads tells how many
# it takes; what was set before changes nothing, as the limit comes later.
# Seen with torch 2.13.0 (CPU), threadpoolctl 3.8.0, numpy 2.4.6 on Linux: before any torch.set_num_threads the limit is kept.
# After torch.set_num_threads(2), get_num_threads still says 1 inside the limit, and a matrix product, an eigenvalue problem
# and exp all keep a second thread busy: MKL, which is built into torch and threadpoolctl does not list, has a number of its
# own by then, while the limit sets libgomp's. A sum, which torch itself shares out, keeps to one. In another thread of Python
# the limit does not count at all.
# Why it matters: who limits threads around many small steps, or in workers beside each other, by threadpoolctl, has twice the
# threads wanted without any sign of it; inside such a library only torch.set_num_threads is heard by all of torch.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.13.0 numpy==2.4.6 threadpoolctl==3.8.0
OMP_NUM_THREADS=2 "$folder/env/bin/python" - <<'PY'
import os
import sys
import threading
import time

import torch
from threadpoolctl import threadpool_info, threadpool_limits

if len(os.sched_getaffinity(0)) < 2:
    sys.exit("two cores are needed to see this")
a, x = torch.ones(1500, 1500, dtype=torch.float64), torch.ones(2**24)
work = {
    "product": lambda: [a @ a for _ in range(6)],
    "eigh": lambda: torch.linalg.eigh(a + a.T),
    "exp": lambda: [x.exp() for _ in range(20)],
    "sum": lambda: [x.sum() for _ in range(60)],
}


def seconds_of_others():
    total = 0
    for task in os.listdir("/proc/self/task"):
        if int(task) != threading.get_native_id():
            with open(f"/proc/self/task/{task}/stat") as file:
                fields = file.read().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def busy():
    """Which work keeps a second thread busy for more than a third of the time of the first."""
    found = []
    for name, run in work.items():
        time.sleep(0.3)
        before, start = seconds_of_others(), time.thread_time()
        run()
        mine = time.thread_time() - start
        time.sleep(0.3)
        if seconds_of_others() - before > mine / 3:
            found.append(name)
    return torch.get_num_threads(), found


seen = {"no limit": busy()}
with threadpool_limits(1):
    seen["limit"] = busy()
torch.set_num_threads(2)
with threadpool_limits(1):
    seen["limit after set_num_threads(2)"] = busy()
    thread = threading.Thread(target=lambda: seen.update({"the same, in another thread": busy()}))
    thread.start()
    thread.join()
for name, (told, found) in seen.items():
    print(f"{name}: torch says {told}, a second thread is busy with {', '.join(found) or 'nothing'}")
print([each["internal_api"] for each in threadpool_info()])
every, of_mkl = list(work), ["product", "eigh", "exp"]
assert list(seen.values()) == [(2, every), (1, []), (1, of_mkl), (2, every)], seen
assert "mkl" not in [each["internal_api"] for each in threadpool_info()]
print(torch.__version__)
PY
