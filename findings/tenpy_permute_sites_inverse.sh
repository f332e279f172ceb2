#!/usr/bin/env bash
# TeNPy's MPS.permute_sites(perm) applies the inverse of the permutation that its documentation states.
#
# Expected: "psi.permute_sites(perm)[i] = psi[perm[i]]", as x.transpose(perm) does with the axes of an array.
# Seen with physics-tenpy 1.1.1: what was at site i is at site perm[i] afterwards. Of four sites that hold 0, 1, 2, 3, the
# permutation [1, 2, 3, 0] makes 3, 0, 1, 2. An exchange of two sites is its own inverse and does not show it; a cycle of
# three does, and the state that comes out has the right norm and the right entropies, on the wrong sites.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q physics-tenpy==1.1.1 numpy==2.4.6 scipy==1.17.1
cd "$folder"
OMP_NUM_THREADS=1 "$folder/env/bin/python" -W ignore - 2>/dev/null <<'PY'
import numpy as np
import tenpy
import tenpy.linalg.np_conserved as npc
from tenpy.networks.mps import MPS
from tenpy.networks.site import SpinHalfSite, SpinSite

print(tenpy.__version__, "documented:", "psi.permute_sites(perm)[i] = psi[perm[i]]" in MPS.permute_sites.__doc__)
four_levels = SpinSite(S=1.5, conserve=None)
for perm in ([1, 0, 2, 3], [1, 2, 3, 0], [2, 0, 1, 3]):
    psi = MPS.from_product_state([four_levels] * 4, [0, 1, 2, 3])
    psi.permute_sites(perm)
    found = [round(value + 1.5) for value in psi.expectation_value("Sz")]
    print("perm", perm, "documented:", perm, "found:", found)
    assert found == np.argsort(perm).tolist()
    assert (found == perm) is (perm == [1, 0, 2, 3])

site, perm = SpinHalfSite(conserve=None), [3, 1, 0, 5, 4, 2]
x = np.random.default_rng(0).normal(size=(2,) * 6)
x /= np.linalg.norm(x)
psi = MPS.from_full([site] * 6, npc.Array.from_ndarray(x, [site.leg] * 6, labels=[f"p{i}" for i in range(6)]))
psi.permute_sites(perm)
y = psi.get_theta(0, 6).to_ndarray().reshape(x.shape)
as_documented, inverse = (np.linalg.norm(y - x.transpose(axes)) for axes in (perm, np.argsort(perm)))
print(f"a random state and {perm}: {as_documented:.2f} from x.transpose(perm), {inverse:.0e} from that of the inverse")
assert as_documented > 0.5 and inverse < 1e-12
PY
