"""One small exponential, so that the first large one of the process is right.

The first `torch.exp` of a process that several threads share may have relative errors of 1.5e-4 in what all threads but
one compute: the library behind it is set up by one thread while the others are at work. One that a single thread
computes sets it up, and a model that is loaded anew then answers as it did, bit for bit.
"""

import torch

torch.exp(torch.zeros(8))
