"""Thousands of adapters of one configuration on one model, each batch row with its own (`AdapterBank`)."""

from ttnet_llm.bank.bank import AdapterBank

__all__ = ["AdapterBank"]
