"""Operators that equations are made of, as TT-matrices of known ranks; `ttnet.solvers` solves with them.

The public names are those of `__init__.pyi`; each is imported when it is first used. Operators are of float64 unless
told otherwise, since the tolerances of solvers ask for it: with trains of another dtype they are promoted as usual.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
