"""Contraction of any tensor network along planned paths; the algebra of trains is in `ttnet.trains`."""

from ttnet.contraction.optimizers import OPTIMIZERS
from ttnet.contraction.plan import ContractionPlan, contract, contract_chain, plan, plan_chain

__all__ = ["OPTIMIZERS", "ContractionPlan", "contract", "contract_chain", "plan", "plan_chain"]
