#!/usr/bin/env bash
# torch.tensor never asks an object for its __array__: what has a length and items is read one by one, twice each.
#
# Expected: torch.tensor and torch.as_tensor take __array__, as numpy.asarray does, and as they take numpy arrays.
# Seen with torch 2.13.0 (CPU) and numpy 2.4.6: of an object with 1,000 items and an __array__, numpy.asarray reads no item,
# and torch.tensor, as_tensor and asarray read 2,002; of one with an __array__ alone they say "Could not infer dtype". A
# __dlpack__, which the page of torch.tensor does not name, is taken first, and no item is read.
# Why it matters: lazy arrays (compressed tensors, trains, files) answer for single items by a computation. With a million
# entries torch.tensor takes minutes where numpy.asarray takes a blink; they need a __dlpack__ beside their __array__.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.13.0 numpy==2.4.6
"$folder/env/bin/python" - <<'PY'
import numpy as np
import torch


class Lazy:
    def __init__(self):
        self.reads = self.arrays = self.capsules = 0

    def __len__(self):
        return 1000

    def __getitem__(self, k):
        self.reads += 1
        if not 0 <= k < 1000:
            raise IndexError
        return float(k)

    def __array__(self, dtype=None, copy=None):
        self.arrays += 1
        return np.arange(1000, dtype=dtype or float)


class WithCapsule(Lazy):
    def __dlpack__(self, **options):
        self.capsules += 1
        return np.arange(1000.0).__dlpack__(**options)

    def __dlpack_device__(self):
        return np.arange(1000.0).__dlpack_device__()


class ArrayAlone:
    def __array__(self, dtype=None, copy=None):
        return np.arange(3.0)


makers = (np.asarray, torch.tensor, torch.as_tensor, torch.asarray)
seen = {}
for make in makers:
    for cls in (Lazy, WithCapsule):
        value = cls()
        assert len(make(value)) == 1000
        seen[f"{make.__module__}.{make.__name__} of {cls.__name__}"] = (value.reads, value.arrays, value.capsules)
for name, counts in seen.items():
    print(f"{name}: items read {counts[0]}, __array__ {counts[1]}, __dlpack__ {counts[2]}")
values = list(seen.values())
assert values[:2] == [(0, 1, 0)] * 2, values
assert values[2:] == [(2002, 0, 0), (0, 0, 1)] * 3, values
assert np.asarray(ArrayAlone()).tolist() == [0.0, 1.0, 2.0]
for make in makers[1:]:
    try:
        make(ArrayAlone())
    except RuntimeError as error:
        assert "Could not infer dtype" in str(error), error
    else:
        raise AssertionError(make)
print(torch.__version__, np.__version__)
PY
