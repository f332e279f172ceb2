"""The pytest plugin that gives PEFT's tests our rows in the place of PEFT's own.

The marks of PEFT's parametrised tests hold lists of the test modules, and pytest reads them when it collects a test.
Just before, each list that `cases.ROWS` names is given our rows. No test is edited; tests that have none of our
configs among their parameters are left out.
"""

import logging
import random
import re
from collections import Counter
from contextlib import nullcontext
from typing import Any

import pytest
from datasets import Dataset, DatasetDict
from peft_tests import testing_common, testing_utils

from tests.conformance.cases import METHODS, NEEDS_MERGING, ROWS, SKIPS
from tests.ttnet_llm.methods import DEPT
from ttnet_llm.tuner import AdapterConfig

OUTCOMES = ("passed", "failed", "error", "skipped")
DECLARED = "declared: "  # the skips of ours, as against those of PEFT
MERGING = {method.config_cls: method.merges for method in [*METHODS, DEPT]}


class RaiseOnDeprecation(logging.Handler):
    """Fails the test in which transformers logs that something is deprecated, as PEFT's own settings do."""

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage().lower()
        if ("deprecat" in message or "future" in message) and "torch_dtype" not in message:
            raise AssertionError(f"transformers says: {message}")


def pytest_configure(config: pytest.Config) -> None:
    for name in ("single_gpu_tests", "multi_gpu_tests", "regression"):
        config.addinivalue_line("markers", f"{name}: PEFT's own")
    logger = logging.getLogger("transformers")
    logger.addHandler(RaiseOnDeprecation())
    logger.setLevel(logging.WARNING)
    # Test modules import these by name, so they are set before any of those.
    testing_common._skip_if_merging_not_supported = skip_if_not_merging
    testing_common._skip_if_conv1d_not_supported = lambda *_: None
    testing_common.hub_online_once = testing_utils.hub_online_once = lambda model_id: nullcontext()
    testing_utils.load_dataset_english_quotes = quotes


def skip_if_not_merging(model_id: str, config_cls: type[AdapterConfig], config_kwargs: dict[str, Any]) -> None:
    """Skip a test that merges, for a method that does not."""
    if not MERGING[config_cls]:
        pytest.skip(f"{DECLARED}{config_cls.method} does not merge")


def quotes() -> DatasetDict:
    """Make a data set like the one that the tests download."""
    generator = random.Random(0)
    words = ["the", "hello", "world", "this", "is", "test", "of", "a", "b"]
    rows = [" ".join(generator.choices(words, k=generator.randint(6, 20))) for _ in range(64)]
    return DatasetDict({"train": Dataset.from_dict({"quote": rows, "author": ["x"] * 64, "tags": [["y"]] * 64})})


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marks = metafunc.definition.own_markers
    for name, rows in ROWS[metafunc.module.__name__.removeprefix("peft_tests.test_")].items():
        given = getattr(metafunc.module, name)
        if isinstance(given, list):
            given[:] = rows
        elif isinstance(given, dict):
            given.clear()
            given.update(rows)
        else:
            marks[:] = [with_rows(mark, rows) if mark.args[1:2] == (given,) else mark for mark in marks]


def with_rows(mark: pytest.Mark, rows: list[Any]) -> pytest.Mark:
    """Give a parametrising mark other rows."""
    return pytest.mark.parametrize(mark.args[0], rows, *mark.args[2:], **mark.kwargs).mark


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ours = {}
    for item in items:
        if config_cls := config_class(tuple(item.callspec.params.values()) if hasattr(item, "callspec") else None):
            ours[item] = config_cls
    config.hook.pytest_deselected(items=[item for item in items if item not in ours])
    items[:] = ours
    for item, config_cls in ours.items():
        item.extra_keyword_matches.add(config_cls.method)
        item.user_properties.append(("method", config_cls.method))
        skips = SKIPS if MERGING[config_cls] else SKIPS | {NEEDS_MERGING: f"{config_cls.method} does not merge"}
        for pattern, reason in skips.items():
            if re.search(pattern, item.nodeid):
                item.add_marker(pytest.mark.skip(reason=DECLARED + reason))


def config_class(value: Any) -> type[AdapterConfig] | None:
    """Find the config class that a test's parameters are about; `None` if it is none of ours."""
    if isinstance(value, tuple):
        return next(filter(None, map(config_class, value)), None)
    if isinstance(value, AdapterConfig):
        return type(value)
    return value if isinstance(value, type) and issubclass(value, AdapterConfig) else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts: Counter[tuple[str, str]] = Counter()
    for outcome in OUTCOMES:
        for report in terminalreporter.stats.get(outcome, []):
            method = dict(getattr(report, "user_properties", ())).get("method", "collection")
            declared = outcome == "skipped" and DECLARED in str(report.longrepr)
            counts[method, "declared" if declared else outcome] += 1
    for method in sorted({method for method, _ in counts}):
        found = ", ".join(f"{counts[method, outcome]} {outcome}" for outcome in (*OUTCOMES, "declared"))
        terminalreporter.write_line(f"{method:12} {found}")
