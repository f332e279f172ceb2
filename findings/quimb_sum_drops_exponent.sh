#!/usr/bin/env bash
# A state of quimb whose norms were equalized is another one in sums, entropies and magnetizations.
#
# Expected: equalize_norms(1.0) keeps the value of a network, as the scale that it takes out is kept beside it in
# `exponent`; so whatever is computed of it stays.
# Seen with quimb 1.16.0: norm, overlap, distance and to_dense take the exponent; `+`, `-`, entropy and magnetization leave
# it out, without a word. The distance of a state and its equalized copy is 0, and the norm of their difference is many
# times their own; of a normalised state the entropy comes out 30 times too small. Sums of operators are as wrong.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q quimb==1.16.0 numpy==2.4.6 scipy==1.17.1 cotengra==0.8.3 autoray==0.11.0
cd "$folder"
OMP_NUM_THREADS=1 NUMBA_CACHE_DIR="$folder" "$folder/env/bin/python" -W ignore - <<'PY'
import numpy as np
import quimb
import quimb.tensor as qtn

state = qtn.MPS_rand_state(6, 4, seed=1)
same = state.copy()
same.equalize_norms_(1.0)
dense = np.asarray(same.to_dense())
print(quimb.__version__, "exponent:", round(same.exponent, 3), "distance:", float(same.distance(state)))
assert np.allclose(dense, state.to_dense()) and np.isclose(same.norm(), 1) and np.isclose(same.overlap(state), 1)
assert same.distance(state) < 1e-6

difference, total = (same - state).norm(), (same + state).norm()
print(f"norm of the difference: {difference:.2f}, of the sum: {total:.2f}, where 0 and 2 are right")
assert difference > 10 and total > 10

s = np.linalg.svd(np.asarray(state.to_dense()).reshape(8, 8), compute_uv=False) ** 2
entropies = [float(psi.entropy(3)) for psi in (state, same)]
magnetizations = [float(psi.magnetization(2)) for psi in (state, same)]
print("entropy before and after:", entropies, "magnetization:", magnetizations)
assert np.isclose(entropies[0], -(s * np.log2(s)).sum()) and entropies[1] < entropies[0] / 10
assert abs(magnetizations[1]) < abs(magnetizations[0]) / 10

operator = qtn.MPO_rand(6, 3, seed=4)
equalized = operator.copy()
equalized.equalize_norms_(1.0)
assert np.allclose(equalized.to_dense(), operator.to_dense())
wrong = np.linalg.norm((operator - equalized).to_dense()) / np.linalg.norm(operator.to_dense())
print(f"an operator minus its equalized copy: {wrong:.2f} of its norm")
assert wrong > 0.5
PY
