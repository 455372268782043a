import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from pipeline.leakage.fits import data_snooping, normalization

BAR = 60_000


def drifting(count: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    columns = [rng.normal(5, 0.01, count), np.cumsum(rng.normal(size=count)), np.ones(count)]
    return np.column_stack(columns).astype(np.float32)


@pytest.mark.parametrize("precision", [np.float64, np.float32])
def test_normalization_holds_for_statistics_of_the_train_rows(precision: type):
    x = drifting(3_000)
    scaler = StandardScaler().fit(x[:2_000])
    statistics = scaler.mean_.astype(precision), scaler.scale_.astype(precision)
    assert normalization(statistics, x[:2_000]).severity == "ok"


@pytest.mark.parametrize("fitted_on", [slice(0, 3_000), slice(0, 2_001), slice(1, 2_000)])
def test_normalization_sees_statistics_of_other_rows(fitted_on: slice):
    x = drifting(3_000)
    scaler = StandardScaler().fit(x[fitted_on])
    found = normalization((scaler.mean_, scaler.scale_), x[:2_000])
    assert found.severity == "critical"
    assert "column 1 is standardised by mean" in found.message


def test_normalization_refuses_statistics_that_are_not_numbers():
    x = drifting(100)
    found = normalization((np.full(3, np.nan), x.std(axis=0)), x)
    assert (found.severity, found.figures["differing"]) == ("critical", 3)


def test_a_model_that_standardises_nothing_leaks_nothing():
    assert normalization(None, drifting(100)).severity == "ok"


def test_data_snooping_counts_what_was_tried():
    found = data_snooping(["a", "b", "c"], ["return_5", "barrier_20"], trials=7)
    assert (found.severity, found.figures) == ("ok", {"models": 3, "targets": 2, "trials": 7})
