"""Numbers of any size, factorisations that hold at any scale, truncation, and the limits of a machine; no trains.

What concerns all cores of a train, in `train_scales`, takes them as a list.
"""
