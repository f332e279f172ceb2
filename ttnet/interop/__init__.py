"""To and from the trains of other libraries: numpy, tensorly, torchTT and quimb; our own files are `ttnet.io`'s.

What comes in is known by its shape, so no library is imported for it; what goes out is made by the library it is for.
"""

from ttnet.interop._arrays import from_numpy, to_numpy
from ttnet.interop._quimb import from_quimb, to_quimb
from ttnet.interop._tensorly import from_tensorly, to_tensorly
from ttnet.interop._torchtt import from_torchtt, to_torchtt

__all__ = [
    "from_numpy",
    "from_quimb",
    "from_tensorly",
    "from_torchtt",
    "to_numpy",
    "to_quimb",
    "to_tensorly",
    "to_torchtt",
]
