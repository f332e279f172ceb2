"""Measurements, each side by side in one run; `make bench` repeats them and rewrites their tables."""
