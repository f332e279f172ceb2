#!/usr/bin/env bash
# `PyNomad.setSeed(s)` seeds nothing, and takes away what the parameter SEED does.
#
# Expected: searches that differ by s, and with "SEED s" as well the search of SEED s.
# Seen with PyNomadBBO 4.6.0: after setSeed(1), (2) or (3) in a fresh process, the search is the one of seed 0 to the last
# point, whether "SEED s" is among the parameters or not; "SEED s" alone gives a search of its own for each s.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q PyNomadBBO==4.6.0
cd "$folder"
cat > search.py <<'PY'
import hashlib
import sys

import PyNomad

ways, seed = sys.argv[1].split("+"), int(sys.argv[2])
points = []


def distance(point):
    points.append([point.get_coord(k) for k in range(point.size())])
    point.setBBO(repr(sum((x - 0.3) ** 2 for x in points[-1])).encode())
    return 1


if "setSeed" in ways:
    PyNomad.setSeed(seed)
options = ["BB_OUTPUT_TYPE OBJ", "MAX_BB_EVAL 30", "DISPLAY_DEGREE 0"]
if "SEED" in ways:
    options.append(f"SEED {seed}")
PyNomad.optimize(distance, [0.9, 0.1], [0, 0], [1, 1], options)
print(len(points), "points", hashlib.sha256(repr(points).encode()).hexdigest()[:12])
PY
searches() {
    for seed in 1 2 3; do "$folder/env/bin/python" search.py "$1" "$seed" | tail -n 1; done
}
zero=$("$folder/env/bin/python" search.py SEED 0 | tail -n 1)
printf 'SEED 0: %s\n' "$zero"
for way in SEED setSeed setSeed+SEED; do printf '%s 1, 2, 3:\n%s\n' "$way" "$(searches "$way")"; done
test "$(searches SEED | sort -u | wc -l)" = 3
test "$(searches setSeed | sort -u)" = "$zero"
test "$(searches setSeed+SEED | sort -u)" = "$zero"
