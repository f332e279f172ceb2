"""From tensors to trains."""

from ttnet.decomposition.tt_svd import tt_svd

__all__ = ["tt_svd"]
