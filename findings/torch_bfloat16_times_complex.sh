#!/usr/bin/env bash
# bfloat16 times a complex number raises, and torch's two answers about its dtype differ.
#
# Expected: as up to torch 2.13, bfloat16 has no complex twin, so that the product is complex64; and
# torch.result_type agrees with torch.promote_types(bfloat16, complex32).
# Seen with torch 2.14.1: the product is to be a bcomplex32, a dtype that has come with 2.14 and whose multiplication
# and addition are not implemented on the CPU, so that it raises; promote_types goes on saying complex64. float16 times
# the same number is a complex32, as before.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.14.1 numpy==2.4.6
cd "$folder"
"$folder/env/bin/python" -W ignore - <<'PY'
import torch

x = torch.ones(2, dtype=torch.bfloat16)
told, promoted = torch.result_type(x, 1j), torch.promote_types(torch.bfloat16, torch.complex32)
try:
    product = (x * 1j).dtype
except NotImplementedError as error:
    product = str(error)
print(torch.__version__, "result_type:", told, "promote_types:", promoted, "product:", product)
assert str(told) == "torch.bcomplex32"
assert promoted == torch.complex64
assert "not implemented for 'BComplex32'" in product
assert (x.half() * 1j).dtype == torch.complex32
PY
