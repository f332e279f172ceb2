"""Numbers of any size, dense factorisations that hold at any scale, truncation, and the limits of a machine.

Nothing here knows of a train as a value: `train_scales` takes lists of cores.
"""
