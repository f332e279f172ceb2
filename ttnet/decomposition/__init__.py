"""From dense tensors, arrays larger than memory and functions to trains; work on trains is in `ttnet.trains`."""

from ttnet.decomposition.array_source import PassProgress
from ttnet.decomposition.batched import tt_svd_batch
from ttnet.decomposition.cross_result import CrossProgress, CrossResult, CrossStatus
from ttnet.decomposition.elementwise import apply
from ttnet.decomposition.tt_cross import tt_cross
from ttnet.decomposition.tt_svd import tt_svd

__all__ = ["CrossProgress", "CrossResult", "CrossStatus", "PassProgress", "apply", "tt_cross", "tt_svd", "tt_svd_batch"]
