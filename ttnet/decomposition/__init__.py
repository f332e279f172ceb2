"""From tensors to trains."""

from ttnet.decomposition.tt_svd import as_dense, tt_svd

__all__ = ["as_dense", "tt_svd"]
