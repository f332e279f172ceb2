"""Settings that every test shares."""

import functools
import gc
import os
from collections.abc import Generator

import jinja2
import pytest
import torch
from hypothesis import HealthCheck, settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may need the hub

pytest.register_assert_rewrite("tests.ttnet.trains.train_cases")  # asserts that tests inherit

collect_ignore = ["conformance"]  # `make conformance` runs it, with PEFT's tests

# No deadline: machines are shared, and a slow machine is not a wrong result.
for profile, examples in (("default", 25), ("deep", 500)):
    settings.register_profile(
        profile, deadline=None, max_examples=examples, suppress_health_check=[HealthCheck.too_slow]
    )
settings.load_profile("default")
# Here and in the processes that tests start, which are to compute the same to the bit.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
# PEFT writes a model card beside every adapter, for which huggingface_hub compiles the same template each time.
jinja2.Environment.compile = functools.cache(jinja2.Environment.compile)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect tests before garbage: nothing of what they import is any."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.fixture(scope="module", autouse=True)
def modules_are_no_garbage() -> None:
    """Keep what lives by now out of later collections: accelerate asks for one of everything after each training."""
    gc.collect()
    gc.freeze()
