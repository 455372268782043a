"""Latency counts from the scheduled arrival of a bar, whatever the bars before it took."""

import time

import numpy as np
import pytest

from pipeline.deployment import latency
from pipeline.deployment.contract import read_contract
from pipeline.deployment.hot_path import open_sessions
from pipeline.stages.latency import measure
from tests import bundles
from tests.bundles import list_bars, make_bars


def test_a_bar_that_arrives_while_another_is_processed_waits_and_its_wait_counts():
    def update(bar):
        end = time.perf_counter_ns() + (20_000_000 if bar["slow"] else 0)
        while time.perf_counter_ns() < end:
            pass

    bars = [{"slow": place == 3} for place in range(12)]
    arrival_ns = latency.schedule("constant", len(bars), bars_per_second=500, seed=0)
    ns = latency.measure_open_loop(update, bars, arrival_ns)
    assert ns[3] >= 20e6  # its own time
    assert ns[4] >= 18e6 and ns[5] >= 16e6  # arrived 2 and 4 ms after it
    assert np.diff(ns[3:9]).max() < 0


def test_arrivals_are_equally_spaced_or_those_of_a_poisson_process():
    constant = latency.schedule("constant", 5, bars_per_second=1000, seed=0)
    assert constant.tolist() == [0, 1_000_000, 2_000_000, 3_000_000, 4_000_000]
    gaps = np.diff(latency.schedule("poisson", 20_000, bars_per_second=1000, seed=0))
    assert gaps.mean() == pytest.approx(1e6, rel=0.03) and gaps.std() == pytest.approx(1e6, rel=0.05)


def test_a_selection_has_its_models_and_their_weights_alone(tmp_path):
    bundle = read_contract(bundles.write_bundle(tmp_path, bundles.describe()))
    part = latency.select_models(bundle, ["value", "classes"])
    assert list(part.models) == ["value", "classes"] and part.ensemble.weights == {"value": 0.35}
    assert latency.select_models(bundle, []) == bundle
    with pytest.raises(ValueError, match="'nobody'.*the bundle has value"):
        latency.select_models(bundle, ["nobody"])


def test_a_throughput_holds_above_its_limit_and_all_else_below():
    limits = latency.Limits(p50_us=100, p99_us=100, bars_per_second=1000, memory_mb=500, ratio_to_parts=1.5)
    found = latency.judge({"p50_us": 99, "p99_us": 101, "bars_per_second": 999}, limits)
    assert {name: each["holds"] for name, each in found.items()} == {
        "p50_us": True,
        "p99_us": False,
        "bars_per_second": False,
    }


def test_every_part_of_a_hot_path_is_measured(tmp_path):
    bundle, sessions = open_sessions(bundles.write_bundle(tmp_path, bundles.describe()))
    settings = latency.LatencySettings(bars=30, arrivals=["constant"], bars_per_second=[5000], models={}, limits={})
    bars = list_bars(make_bars(bundle.warm_up_bars + 230))
    names = ["value", "window"]
    found, schedules = measure(bundle, sessions, names, bars, settings=settings, seed=0)
    assert list(found["within_us"]) == ["features", *names, "glue"] and list(found["alone_us"]) == ["features", *names]
    assert min(found["within_us"].values()) > 0 and found["naive_us"] > sum(found["alone_us"].values())
    assert len(schedules) == 1 and len(schedules[0].ns) == 30
    with pytest.raises(ValueError, match=r"latency.bars is 30: there are 100 bars, and \d+ are needed"):
        measure(bundle, sessions, names, bars[:100], settings=settings, seed=0)
