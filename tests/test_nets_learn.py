"""Sequence models find a signal that no single row shows, and none where there is none."""

from functools import cache

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from pipeline.models.base import Signature
from pipeline.models.plugins import build
from pipeline.samples import Samples
from tests import data
from tests.data import OUTPUTS, plant_samples, plant_signal
from tests.test_nets_engine import SHARED, stop_after

WINDOW, ROWS = 20, 9000
TRAIN, VALID, TEST = np.arange(WINDOW, 5500), np.arange(5600, 6500), np.arange(6600, ROWS)
COLUMNS = ("return", "mean", "deviation")
ADAM = {"name": "adam", "learning_rate": 0.01, "weight_decay": 0.0}
NETS = {
    "lstm": (
        "recurrent",
        {"cell": "lstm", "hidden_size": 16, "num_layers": 1, "bidirectional": False, "attention": False},
    ),
    "gru, attention": (
        "recurrent",
        {"cell": "gru", "hidden_size": 16, "num_layers": 1, "bidirectional": True, "attention": True},
    ),
    "cnn": ("cnn", {"channels": [16, 16], "kernel_size": 11, "pool": "last", "batch_norm": True}),
    "transformer": (
        "transformer",
        {"d_model": 16, "nhead": 2, "num_layers": 1, "dim_feedforward": 32, "positional_encoding": "learned"},
    ),
    "mlp": ("mlp", {"hidden_sizes": [32], "activation": "relu"}),
    "nhits": (
        "nhits",
        {"horizon": 5, "n_pool_kernel_size": [2, 1], "n_freq_downsample": [2, 1], "mlp_units": [16]},
    ),
    "patchtst": (
        "patchtst",
        {"patch_len": 4, "stride": 4, "d_model": 16, "nhead": 2, "num_layers": 1, "dim_feedforward": 32},
    ),
    "tft": ("tft", {"hidden_size": 8, "nhead": 2, "known_columns": "ahead"}),
}
SEQUENCES = ["lstm", "gru, attention", "cnn", "transformer"]
FORECASTERS = ["nhits", "patchtst", "tft"]  # tests/test_nets_forecasters.py has their classes and quantiles


@cache
def make_market(*, is_null: bool) -> Samples:
    """Return samples whose y is the last ten returns less the ten before them, and noise: only their order matters.

    Columns are the bar's return, and the mean and the deviation of the last 20, in which order is lost.
    """
    rng = np.random.default_rng(5)
    known = rng.normal(size=ROWS)
    past = np.lib.stride_tricks.sliding_window_view(np.concatenate([np.zeros(WINDOW - 1), known]), WINDOW)  # (rows, 20)
    signal = (past[:, 10:].sum(axis=1) - past[:, :10].sum(axis=1)) / np.sqrt(WINDOW)
    y = (rng.normal(size=ROWS) if is_null else signal + rng.normal(size=ROWS)).astype(np.float32)
    x = np.stack([known, past.mean(axis=1), past.std(axis=1)], axis=1).astype(np.float32)
    time = 60_000 * np.arange(ROWS, dtype=np.int64)
    return Samples(time, time + 60_000, np.zeros(ROWS, np.int32), x, COLUMNS, y)


def measure_net_ic(name: str, samples: Samples) -> float:
    """Return the information coefficient of a net on the test rows."""
    plugin, hyperparameters = NETS[name]
    own = {
        "window": WINDOW,
        "dropout": 0.0,
        "loss": {"name": "mse"},
        "lr_schedule": {"name": "constant"},
        "optimizer": ADAM,
    }
    block = {"dataset": "d", "target": "t", "plugin": plugin, "hyperparameters": own | hyperparameters}
    shared = SHARED | {"epochs": 12, "early_stopping": stop_after(4), "batch_size": 128, "train_stride": 2}
    model = build("nets", block, Signature(COLUMNS, OUTPUTS["return"]), shared=shared, seed=1)
    model.fit(samples, TRAIN, VALID)
    return float(np.corrcoef(model.predict_rows(samples, TEST)[:, 0], samples.y[TEST])[0, 1])


def measure_ridge_ic(samples: Samples) -> float:
    """Return that of a linear model of the columns."""
    prediction = Ridge(alpha=1.0).fit(samples.x[TRAIN], samples.y[TRAIN]).predict(samples.x[TEST])
    return float(np.corrcoef(prediction, samples.y[TEST])[0, 1])


def measure_trees_ic(samples: Samples) -> float:
    """Return that of boosted trees on the columns."""
    own = {"loss": "l2", "learning_rate": 0.05, "num_leaves": 15, "min_data_in_leaf": 50, "feature_fraction": 1.0}
    own |= {"bagging_fraction": 1.0, "lambda_l2": 1.0, "max_bin": 63}
    block = {"dataset": "d", "target": "t", "plugin": "lightgbm", "hyperparameters": own}
    shared = {"num_boost_round": 200, "early_stopping_rounds": 20}
    model = build("trees", block, Signature(COLUMNS, OUTPUTS["return"]), shared=shared, seed=1)
    model.fit(samples, TRAIN, VALID)
    return float(np.corrcoef(model.predict_rows(samples, TEST)[:, 0], samples.y[TEST])[0, 1])


@pytest.mark.parametrize("name", SEQUENCES + FORECASTERS)
def test_the_order_of_bars_is_learned_where_no_single_row_shows_it(name):
    samples = make_market(is_null=False)  # the best that anything can reach is √½
    assert measure_net_ic(name, samples) > 0.5 > 0.25 > max(measure_ridge_ic(samples), measure_trees_ic(samples))


@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.parametrize("name", [*SEQUENCES, "mlp"])
def test_every_kind_of_target_is_learned(name, kind):
    plugin, hyperparameters = NETS[name]
    samples, output = plant_samples(kind, seed=2), OUTPUTS[kind]
    loss = {"name": "cross_entropy" if output.is_classification else "mse"}
    own = {"window": 4, "dropout": 0.0, "loss": loss, "lr_schedule": {"name": "constant"}, "optimizer": ADAM}
    block = {"dataset": "d", "target": "t", "plugin": plugin, "hyperparameters": own | hyperparameters}
    model = build(
        "nets",
        block,
        Signature(samples.columns, output),
        shared=SHARED | {"epochs": 6, "early_stopping": stop_after(6)},
        seed=1,
    )
    model.fit(samples, data.TRAIN, data.VALID)
    prediction = model.predict_rows(samples, data.TEST)
    assert prediction.shape == (len(data.TEST), len(output.names))
    assert not output.is_classification or np.allclose(prediction.sum(axis=1), 1, atol=1e-6)
    score = prediction[:, -1] if output.no_score_reason else model.score(samples, data.TEST)
    assert np.corrcoef(score, plant_signal(samples.x[data.TEST]))[0, 1] > 0.6


@pytest.mark.parametrize("name", SEQUENCES)
def test_no_signal_is_found_where_there_is_none(name):
    assert abs(measure_net_ic(name, make_market(is_null=True))) < 3 / np.sqrt(len(TEST))
