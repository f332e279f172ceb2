#!/usr/bin/env bash
# dask's QR of a complex array that is wider than high gives factors whose product is another array.
#
# Expected: da.linalg.qr of an array in chunks along its longer side, which it takes "tall-and-skinny" or
# "short-and-fat", gives a unitary q and q @ r = x, for complex numbers as for real ones.
# Seen with dask 2026.8.0, numpy 2.4.6: of a complex array of (6, 40) in four chunks q is unitary, and q @ r is as far from
# x as x is large, in all columns but those of the first chunk; no error, no warning. Real arrays, tall complex ones and
# da.linalg.svd of the same array are right.
# Why it matters: trains of arrays that do not fit into memory are made by such factorizations, one mode after the other.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q "dask[array]==2026.8.0" numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 "$folder/env/bin/python" - <<'PY'
import warnings

import dask
import dask.array as da
import numpy as np

warnings.simplefilter("error")
rng = np.random.default_rng(0)
errors = {}
for shape, chunks in (((40, 6), (10, 6)), ((6, 40), (6, 10))):
    real = rng.normal(size=shape)
    for x in (real, real + 1j * rng.normal(size=shape)):
        q, r = dask.compute(*da.linalg.qr(da.from_array(x, chunks=chunks)), scheduler="sync")
        assert q.shape == (shape[0], 6) and r.shape == (6, shape[1])
        assert np.allclose(q.conj().T @ q, np.eye(6)) and np.allclose(r[:, :6], np.triu(r[:, :6]))
        errors[shape, x.dtype.name] = float(np.linalg.norm(q @ r - x) / np.linalg.norm(x))
        first = np.allclose((q @ r)[:, :10], x[:, :10])
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # svd says that it casts a description of its complex result
    u, s, v = dask.compute(*da.linalg.svd(da.from_array(x, chunks=chunks)), scheduler="sync")
print(dask.__version__, errors, "first chunk right:", first, "svd right:", np.allclose(u * s @ v, x))
assert all((error > 0.5) is (key == ((6, 40), "complex128")) for key, error in errors.items())
assert all(error < 1e-12 for key, error in errors.items() if key != ((6, 40), "complex128"))
assert first and np.allclose(u * s @ v, x)
PY
