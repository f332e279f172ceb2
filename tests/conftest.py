"""Settings that every test shares."""

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may need the hub

pytest.register_assert_rewrite("tests.ttnet.trains.train_cases")  # asserts that tests inherit

collect_ignore = ["conformance"]  # `make conformance` runs it, with PEFT's tests

# No deadline: machines are shared, and a slow machine is not a wrong result.
settings.register_profile("default", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("default")
torch.set_num_threads(1)
