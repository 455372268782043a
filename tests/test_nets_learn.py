"""Sequence models see what a table cannot tell, and nothing where nothing is."""

from functools import cache

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from pipeline.labels import OUTPUTS
from pipeline.models.base import Shape, build
from pipeline.samples import Samples
from tests import data
from tests.data import planted, planted_signal
from tests.test_nets_engine import SHARED

BARS, ROWS = 20, 9000
TRAIN, VALID, TEST = np.arange(BARS, 5500), np.arange(5600, 6500), np.arange(6600, ROWS)
COLUMNS = ("return", "mean", "deviation")
ADAM = {"name": "adam", "learning_rate": 0.01, "weight_decay": 0.0}
NETS = {
    "lstm": ("recurrent", {"cell": "lstm", "hidden": 16, "layers": 1, "bidirectional": False, "attention": False}),
    "gru, attention": (
        "recurrent",
        {"cell": "gru", "hidden": 16, "layers": 1, "bidirectional": True, "attention": True},
    ),
    "cnn": ("cnn", {"channels": [16, 16], "kernel": 11, "pool": "last", "batch_norm": True}),
    "transformer": (
        "transformer",
        {"d_model": 16, "heads": 2, "layers": 1, "feedforward": 32, "positions": "learnt"},
    ),
    "mlp": ("mlp", {"hidden": [32], "activation": "relu"}),
}
SEQUENCES = ["lstm", "gru, attention", "cnn", "transformer"]


@cache
def market(*, is_null: bool) -> Samples:
    """The next return is the last ten returns less the ten before them, and noise: their order is all that counts.

    Columns are the bar's return, and the mean and the deviation of the last 20, in which order is lost.
    """
    rng = np.random.default_rng(5)
    known = rng.normal(size=ROWS)
    past = np.lib.stride_tricks.sliding_window_view(np.concatenate([np.zeros(BARS - 1), known]), BARS)  # (rows, 20)
    signal = (past[:, 10:].sum(axis=1) - past[:, :10].sum(axis=1)) / np.sqrt(BARS)
    y = (rng.normal(size=ROWS) if is_null else signal + rng.normal(size=ROWS)).astype(np.float32)
    x = np.stack([known, past.mean(axis=1), past.std(axis=1)], axis=1).astype(np.float32)
    time = 60_000 * np.arange(ROWS, dtype=np.int64)
    return Samples(time, time + 60_000, np.zeros(ROWS, np.int32), x, COLUMNS, y, np.zeros(ROWS))


def net_ic(name: str, samples: Samples) -> float:
    """The information coefficient of a net on the test rows."""
    plugin, tunables = NETS[name]
    own = {"bars": BARS, "dropout": 0.0, "loss": {"name": "mse"}, "schedule": {"name": "constant"}, "optimiser": ADAM}
    block = {"dataset": "d", "target": "t", "family": "nets", "plugin": plugin, "build": own | tunables}
    shared = SHARED | {"epochs": 12, "patience": 4, "batch": 128, "stride": 2}
    model = build(block, Shape(COLUMNS, ("return",)), shared=shared, seed=1)
    model.fit(samples, TRAIN, VALID)
    return float(np.corrcoef(model.answer(samples, TEST)[:, 0], samples.y[TEST])[0, 1])


def ridge_ic(samples: Samples) -> float:
    """That of a linear model of the columns."""
    answer = Ridge(alpha=1.0).fit(samples.x[TRAIN], samples.y[TRAIN]).predict(samples.x[TEST])
    return float(np.corrcoef(answer, samples.y[TEST])[0, 1])


def trees_ic(samples: Samples) -> float:
    """That of boosted trees on the columns."""
    own = {"loss": "l2", "learning_rate": 0.05, "num_leaves": 15, "min_data_in_leaf": 50, "feature_fraction": 1.0}
    own |= {"bagging_fraction": 1.0, "lambda_l2": 1.0, "max_bin": 63}
    block = {"dataset": "d", "target": "t", "family": "trees", "plugin": "lightgbm", "build": own}
    model = build(block, Shape(COLUMNS, ("return",)), shared={"rounds": 200, "patience": 20}, seed=1)
    model.fit(samples, TRAIN, VALID)
    return float(np.corrcoef(model.answer(samples, TEST)[:, 0], samples.y[TEST])[0, 1])


@pytest.mark.parametrize("name", SEQUENCES)
def test_the_order_of_bars_is_learnt_where_no_table_tells_it(name):
    samples = market(is_null=False)  # the best that anything can reach is √½
    assert net_ic(name, samples) > 0.5 > 0.25 > max(ridge_ic(samples), trees_ic(samples))


@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.parametrize("name", [*SEQUENCES, "mlp"])
def test_every_kind_of_target_is_learnt(name, kind):
    plugin, tunables = NETS[name]
    samples, outputs = planted(kind, seed=2), OUTPUTS[kind]
    loss = {"name": "cross_entropy" if len(outputs) > 1 else "mse"}
    own = {"bars": 4, "dropout": 0.0, "loss": loss, "schedule": {"name": "constant"}, "optimiser": ADAM}
    block = {"dataset": "d", "target": "t", "family": "nets", "plugin": plugin, "build": own | tunables}
    model = build(block, Shape(samples.columns, outputs), shared=SHARED | {"epochs": 6, "patience": 6}, seed=1)
    model.fit(samples, data.TRAIN, data.VALID)
    answer = model.answer(samples, data.TEST)
    assert answer.shape == (len(data.TEST), len(outputs))
    assert len(outputs) == 1 or np.allclose(answer.sum(axis=1), 1, atol=1e-6)
    score = model.score(samples, data.TEST)
    assert np.corrcoef(score, planted_signal(samples.x[data.TEST]))[0, 1] > 0.6


@pytest.mark.parametrize("name", SEQUENCES)
def test_nothing_is_found_where_nothing_is(name):
    assert abs(net_ic(name, market(is_null=True))) < 3 / np.sqrt(len(TEST))
