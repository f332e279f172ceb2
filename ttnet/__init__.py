"""Tensor trains on PyTorch."""
