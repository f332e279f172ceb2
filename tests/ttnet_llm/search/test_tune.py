"""One loop for every engine, on fifty LoRA trainings that were measured, and on surfaces that are known."""

import csv
import importlib.util
import json
import math
import os
import signal
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ttnet.errors import MissingExtraError, TTConvergenceError, TTFileError, TTValueError
from ttnet_llm.search import Choice, Log, Space, Whole, tune

PACKAGES = {"random": None, "tpe": "optuna", "nomad": "PyNomad"}


def engines(*names):
    """Mark the engines that are not installed."""
    return pytest.mark.parametrize(
        "engine",
        [
            pytest.param(
                name,
                marks=pytest.mark.skipif(
                    PACKAGES[name] is not None and importlib.util.find_spec(PACKAGES[name]) is None,
                    reason=f"{PACKAGES[name]} is not installed; pip install 'ttnet-torch[search]' brings it",
                ),
            )
            for name in names or PACKAGES
        ],
    )


# The 50 trainings of LLaMA-2-7B by LoRA in the third experiment of Tribes et al. (arXiv:2312.00949), as NOMAD ordered
# them, from bbo3/history.0.txt of github.com/bbopt/Nomad_HPO_Llama-2_With_LoRa: rank 2^(code + 1), alpha = factor *
# rank, dropout (0, 1e-4, 1e-3, 1e-2, 1e-1)[code - 1].
with Path(__file__).with_name("lora_trainings.csv").open() as _file:
    ROWS = {
        tuple(int(row[name]) for name in ("rank_code", "alpha_factor", "dropout_code")): float(row["validation_loss"])
        for row in csv.DictReader(_file)
    }
LORA = Space({"rank_code": Whole(1, 5), "alpha_factor": Whole(1, 64), "dropout_code": Whole(1, 5)})
START = {"rank_code": 2, "alpha_factor": 8, "dropout_code": 1}


def features(points):
    """Columns of a quadratic surface in the codes and in the logarithm of the factor."""
    rank, factor, dropout = np.array(points, float).T - np.array([[4], [0], [2]])
    factor = np.log2(factor) - 4
    ones = np.ones_like(rank)
    return np.stack([ones, rank, rank**2, factor, factor**2, rank * factor, dropout, dropout**2], axis=1)


SURFACE = np.linalg.lstsq(features(list(ROWS)), np.array(list(ROWS.values())), rcond=None)[0]


def on_the_surface(point):
    return float((features([tuple(point.values())]) @ SURFACE)[0])


BEST = float((features([tuple(LORA.nth(k).values()) for k in range(LORA.size)]) @ SURFACE).min())

MIXED = Space({"lr": Log(1e-4, 1e-1), "r": Choice(2, 4, 8), "schedule": Choice("linear", "cosine"), "one": Whole(5, 5)})


def mixed(point):
    if point["lr"] > 0.05:
        raise RuntimeError("the loss is not what it was")
    if point["lr"] > 0.03:
        return math.nan
    return (math.log10(point["lr"]) + 2.3) ** 2 + abs(point["r"] - 4) / 10 + (point["schedule"] == "linear") / 10


@engines()
def test_the_best_of_the_measured_trainings_is_found(engine):
    tuned = tune(
        lambda point: ROWS[tuple(point.values())],
        LORA,
        evaluations=50,
        engine=engine,
        start=START,
        allowed=lambda point: tuple(point.values()) in ROWS,
    )
    assert tuned.best == {"rank_code": 5, "alpha_factor": 20, "dropout_code": 2}  # evaluation 49 of the authors'
    assert tuned.value == min(ROWS.values())
    assert tuned.trials[0].point == START
    assert len({tuple(trial.point.values()) for trial in tuned.trials}) == len(tuned.trials) == 50


@engines()
def test_engines_that_learn_are_near_the_best_after_twenty_trials(engine):
    gaps = [
        tune(on_the_surface, LORA, evaluations=20, engine=engine, start=START, seed=seed).value - BEST
        for seed in range(10)
    ]
    # A training differs by 0.0005 from itself.
    assert statistics.median(gaps) >= 0.005 if engine == "random" else statistics.median(gaps) <= 0.002


@engines()
@pytest.mark.parametrize(("space", "objective"), [(LORA, on_the_surface), (MIXED, mixed)])
def test_a_seed_says_what_is_tried(engine, space, objective):
    once, again, other = (
        [trial.point for trial in tune(objective, space, evaluations=15, engine=engine, seed=seed).trials]
        for seed in (3, 3, 4)
    )
    assert once == again != other


@engines()
def test_trials_that_fail_are_kept_and_the_search_goes_on(engine):
    tuned = tune(mixed, MIXED, evaluations=40, engine=engine)
    failed = [trial for trial in tuned.trials if trial.value is None]
    assert len(tuned.trials) == 40
    assert {trial.error for trial in failed} <= {"RuntimeError: the loss is not what it was", "The objective is nan."}
    assert failed
    assert all(trial.point["lr"] > 0.03 for trial in failed)
    assert tuned.value == min(trial.value for trial in tuned.trials if trial.value is not None) == mixed(tuned.best)
    assert tuned.value < (0.3 if engine == "random" else 0.02)
    assert tuned.course == [
        min((t.value for t in tuned.trials[: k + 1] if t.value is not None), default=math.inf) for k in range(40)
    ]


@engines()
def test_nomad_and_others_start_where_a_trial_works(engine):
    start = {"lr": 0.1, "r": 2, "schedule": "linear", "one": 5}
    tuned = tune(mixed, MIXED, evaluations=20, engine=engine, start=start)
    assert tuned.trials[0].point == start
    assert tuned.trials[0].value is None
    assert tuned.value < 1


@engines()
def test_what_is_refused_is_never_paid_for(engine):
    paid, asked = [], []

    def objective(point):
        paid.append(point)
        return on_the_surface(point)

    def allowed(point):
        asked.append(point)
        return point["rank_code"] <= 3

    tuned = tune(objective, LORA, evaluations=30, engine=engine, start=START, allowed=allowed, seed=1)
    assert len(paid) == len(tuned.trials) == 30
    assert max(point["rank_code"] for point in paid) == 3
    assert len(asked) >= 30
    within = min(on_the_surface(p) for p in map(LORA.nth, range(LORA.size)) if p["rank_code"] <= 3)
    assert tuned.value - within < (0.01 if engine == "random" else 0.002)


@engines()
def test_a_search_goes_on_without_paying_twice(engine, tmp_path):
    paid = []

    def objective(point):
        paid.append(point)
        return mixed(point)

    whole = tune(objective, MIXED, evaluations=24, engine=engine, seed=2)
    paid.clear()
    file = tmp_path / "new" / "history.jsonl"
    first = tune(objective, MIXED, evaluations=12, engine=engine, seed=2, history=file)
    with file.open("a") as half:
        half.write('{"point": {"lr": 0.0')  # as if the machine had stopped
    both = tune(objective, MIXED, evaluations=24, engine=engine, seed=2, history=file)
    assert [trial.point for trial in both.trials] == [trial.point for trial in whole.trials] == paid
    assert both.trials[:12] == first.trials
    assert (both.best, both.value) == (whole.best, whole.value)
    assert len(file.read_text().splitlines()) == 25
    assert tune(objective, MIXED, evaluations=24, engine=engine, seed=2, history=file).trials == both.trials
    assert len(paid) == 24


def killing(point):
    """Stop the process in its sixth trial."""
    with Path("paid").open("a") as file:
        file.write(json.dumps(point) + "\n")
    if len(Path("paid").read_text().splitlines()) == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return (point["x"] - 7) ** 2 + point["y"]


@engines("nomad")
def test_a_search_that_was_killed_goes_on(engine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space = Space({"x": Whole(0, 50), "y": Whole(0, 50)})
    script = (
        "from tests.ttnet_llm.search.test_tune import Space, Whole, killing, tune\n"
        "space = Space({'x': Whole(0, 50), 'y': Whole(0, 50)})\n"
        f"tune(killing, space, evaluations=14, engine={engine!r}, history='history.jsonl')"
    )
    root = str(Path(__file__).parents[3])
    killed = subprocess.run([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": root}, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(Path("history.jsonl").read_text().splitlines()) == 6  # five trials, below the line that begins it
    after = tune(killing, space, evaluations=14, engine=engine, history="history.jsonl")
    paid = Path("paid").read_text().splitlines()
    assert len(paid) == 15  # the one that was under way twice
    assert [json.loads(line) for line in dict.fromkeys(paid)] == [trial.point for trial in after.trials]
    assert after == tune(killing, space, evaluations=14, engine=engine, history="history.jsonl")
    whole = tune(killing, space, evaluations=14, engine=engine)
    assert [trial.point for trial in whole.trials] == [trial.point for trial in after.trials]


@engines()
def test_ctrl_c_gives_what_there_is(engine, tmp_path):
    paid = []

    def objective(point):
        paid.append(point)
        if len(paid) == 4:
            raise KeyboardInterrupt
        return on_the_surface(point)

    tuned = tune(objective, LORA, evaluations=9, engine=engine, history=tmp_path / "history.jsonl")
    assert tuned.interrupted
    assert [trial.point for trial in tuned.trials] == paid[:3]
    rest = tune(objective, LORA, evaluations=9, engine=engine, history=tmp_path / "history.jsonl")
    assert not rest.interrupted
    assert len(rest.trials) == 9
    paid[:] = paid[:3]
    with pytest.raises(KeyboardInterrupt):
        tune(objective, LORA, evaluations=9, engine=engine)


@engines()
def test_a_small_space_is_tried_out_whole(engine):
    space = Space({"x": Whole(0, 2), "y": Choice("a", "b")})
    tuned = tune(lambda point: point["x"] + (point["y"] == "a"), space, evaluations=50, engine=engine)
    assert len(tuned.trials) == 6
    assert tuned.best == {"x": 0, "y": "b"}
    tuned = tune(lambda point: 1.0, Space({"x": Whole(3, 3)}), evaluations=50, engine=engine)
    assert [trial.point for trial in tuned.trials] == [{"x": 3}]


@engines()
def test_a_search_in_which_nothing_works_says_so(engine):
    def objective(point):
        raise MemoryError("too large")

    with pytest.raises(TTConvergenceError, match="All 5 trials failed, the last one so: MemoryError: too large"):
        tune(objective, LORA, evaluations=5, engine=engine)
    with pytest.raises(TTValueError, match="allowed refuses all 1,600 points that were asked for"):
        tune(objective, LORA, evaluations=5, engine=engine, allowed=lambda point: False)


@pytest.mark.parametrize(("engine", "package"), [("tpe", "optuna"), ("nomad", "PyNomad")])
def test_a_missing_package_is_named_with_its_extra(engine, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"the package '{package}'.*pip install 'ttnet-torch\[search\]'"):
        tune(on_the_surface, LORA, evaluations=5, engine=engine)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"evaluations": 0}, "evaluations is 0; expected an integer of at least 1"),
        ({"evaluations": True}, "evaluations is True"),
        ({"engine": "grid"}, "engine is 'grid'; expected one of random, tpe, nomad"),
        ({"seed": -1}, "seed is -1; expected an integer from 0"),
        ({"start": {"rank_code": 1}}, "The point names rank_code; the space has rank_code, alpha_factor, dropout_code"),
        ({"start": START | {"rank_code": 9}}, r"rank_code is 9; expected a value from Whole\(1, 5\)"),
    ],
)
def test_mistakes_are_named(arguments, sentence):
    with pytest.raises(TTValueError, match=sentence):
        tune(on_the_surface, LORA, **{"evaluations": 5, "engine": "random"} | arguments)


def test_a_history_of_another_search_is_refused(tmp_path):
    file = tmp_path / "history.jsonl"
    tune(on_the_surface, LORA, evaluations=3, engine="random", history=file)
    with pytest.raises(TTValueError, match=r"seed is 1, but the search in .* began with 0; go on with the same"):
        tune(on_the_surface, LORA, evaluations=3, engine="random", history=file, seed=1)
    with pytest.raises(TTValueError, match="space is 'x: Whole"):
        tune(on_the_surface, Space({"x": Whole(0, 1)}), evaluations=3, engine="random", history=file)
    for content in ("no history\n", "no history", "[1, 2]\n", json.dumps({"engine": "random"}) + "\n{}\n"):
        file.write_text(content)
        with pytest.raises(TTFileError, match="is no history of a search, and would be lost"):
            tune(on_the_surface, LORA, evaluations=3, engine="random", history=file)
        assert file.read_text() == content
    with pytest.raises(TTFileError, match="cannot be read"):
        tune(on_the_surface, LORA, evaluations=3, engine="random", history=tmp_path)
