"""Bytes that hold on every x86-64 CPU with AVX2: digests of a small computation of every kind.

A digest that differs on another CPU means that results cannot be replayed there: find the library that follows the
instruction set and pin it in `pipeline/__init__.py`. A digest that differs everywhere means that results have changed.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

import pipeline
from pipeline import labels
from pipeline.evaluation import effective_trials, overfitting, pairwise
from pipeline.features import engine
from pipeline.market import simulated
from pipeline.models.base import Signature
from pipeline.stages import baseline
from tests.data import OUTPUTS, TEST, TRAIN, VALID, plant_samples
from tests.params import BLOCKS, PARAMS, build_model, kind_of, list_hyperparameters
from tests.threads import use_threads

DIGESTS = json.loads(Path(__file__).with_suffix(".json").read_text())
SMALL = {"epochs": 2, "num_episodes": 16, "learning_starts": 300, "num_evaluations": 2, "num_boost_round": 2}
pytestmark = pytest.mark.skipif(not pipeline.has_avx2(), reason="without AVX2 and FMA bytes may differ")


@pytest.fixture(autouse=True)
def two_threads():
    """Two threads are on offer, which no digest may depend on."""
    with use_threads(2):
        yield


def digest(*arrays: np.ndarray) -> str:
    total = hashlib.sha256()
    for array in arrays:
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()[:16]


def select_known(what: str, names: Iterable[str]) -> list[str]:
    """The names that have a digest: a target or model that a user adds needs none."""
    return [name for name in names if f"{what} {name}" in DIGESTS]


def test_every_digest_is_of_a_target_or_a_model_that_params_have():
    known = {"labels": PARAMS["datasets"]["klines"]["targets"], "model": BLOCKS}
    named = [name.partition(" ") for name in DIGESTS]
    assert [name for what, _, name in named if what in known and name not in known[what]] == []
    assert {what: sum(each == what for each, _, _ in named) for what in known} == {"labels": 3, "model": 11}


@pytest.fixture(scope="module")
def bars():
    table, _ = simulated.load(
        symbols=["BTCUSDT"],
        interval="1m",
        start="2024-01-01",
        days=2,
        signal=0.05,
        predictor="flow",
        half_life_bars=5.0,
        spread_bps=0.0,
        idle_share=0.0005,
        seed=1,
    )
    return table.assign(segment=np.zeros(len(table), np.int32))


def test_the_simulated_market(bars):
    assert digest(*(bars[name].to_numpy() for name in ("open", "high", "low", "close", "volume"))) == DIGESTS["bars"]


def test_features(bars):
    assert digest(engine.compute(bars, **PARAMS["datasets"]["klines"]["features"]).x) == DIGESTS["features"]


@pytest.mark.parametrize("target", select_known("labels", PARAMS["datasets"]["klines"]["targets"]))
def test_labels(bars, target):
    table = labels.make_labels(bars, PARAMS["datasets"]["klines"]["targets"][target]).table
    assert digest(table["y"].to_numpy(), table["raw"].to_numpy()) == DIGESTS[f"labels {target}"]


@pytest.mark.parametrize("kind", ["return", "barrier"])
def test_the_linear_baseline(kind):
    samples = plant_samples(kind, seed=1)
    prediction = baseline.predict_linear(samples, train=TRAIN, test=TEST, output=OUTPUTS[kind], l2=0.01)
    assert digest(prediction) == DIGESTS[f"linear {kind}"]


def test_statistics_of_overfitting():
    returns = np.random.default_rng(0).standard_t(4, (4000, 6)) / 1e3
    result, correlation = overfitting.pbo(returns, blocks=8), effective_trials.correlate_trials(returns)
    numbers = [result.slope, effective_trials.count_effective_trials(correlation)]
    assert digest(result.logits, result.in_sample, correlation, np.array(numbers)) == DIGESTS["overfitting"]


def test_the_bootstrap():
    returns = np.random.default_rng(0).standard_t(4, (4000, 6)) / 1e3
    paths = {"a": returns[:, :3], "b": returns[:, 3:]}
    found = pairwise.compare_sharpes(paths, {"a": 0, "b": 1}, confidence=0.9, resamples=200, seed=1)
    numbers = [*found.intervals["a"], *found.intervals["b"], found.pairs[0].p_value, found.block_bars]
    assert digest(np.array(numbers)) == DIGESTS["bootstrap"]


@pytest.mark.parametrize("name", select_known("model", BLOCKS))
def test_a_fit_of_every_model(name):
    assert digest(fitted(name)) == DIGESTS[f"model {name}"]


def fitted(name: str) -> np.ndarray:
    """(n, outputs) predictions of a small fit."""
    samples = plant_samples(kind_of(name), seed=1)
    changes = {key: value for key, value in SMALL.items() if key in list_hyperparameters(name)}
    signature = Signature(columns=samples.columns, output=OUTPUTS[kind_of(name)])
    model = build_model(name, signature, seed=7, changes=changes)
    model.fit(samples, TRAIN[:2400], VALID[:600])
    return model.predict_rows(samples, TEST[:300])
