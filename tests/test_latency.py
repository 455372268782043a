"""Latency counts from the scheduled arrival of a bar, whatever the bars before it took."""

import time

import numpy as np
import pytest

from pipeline.deployment import latency
from pipeline.deployment.contract import read_contract
from pipeline.deployment.hot_path import open_graphs
from pipeline.deployment.latency_rule import UNITS
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
    bundle, graphs = open_graphs(bundles.write_bundle(tmp_path, bundles.describe()))
    bundle = latency.select_models(bundle, ["value", "window"])
    given = {"arrivals": ["constant"], "bars_per_second": [900.0], "warms_caches": [False, True]}
    settings = latency.LatencySettings(bars=60, models={}, limits={}, **given)
    bars, seen = list_bars(make_bars(bundle.warm_up_bars + 260)), {"value": [], "window": []}
    native = {name: lambda inputs, name=name: seen[name].append(inputs.copy()) for name in seen}
    found, schedules = measure(bundle, graphs, native, bars, memory_mb=1.0, settings=settings, seed=0)
    assert set(UNITS) < set(found["figures"])  # all that a promotion can limit
    assert list(found["within_us"]) == ["features", "models", "glue"]
    assert list(found["alone_us"]) == ["features", "value", "window"] and list(found["native_us"]) == [
        "value",
        "window",
    ]
    assert min(found["within_us"].values()) > 0 and found["naive_us"] > found["whole_us"] > 0
    assert [(each.warms_caches, len(each.ns)) for each in schedules] == [(False, 60), (True, 60)]
    assert seen["window"][0].shape == (1, bundles.WINDOW, 3) and len({each.tobytes() for each in seen["value"]}) == 10
    with pytest.raises(ValueError, match=r"latency.bars is 60: there are 100 bars, and \d+ are needed"):
        measure(bundle, graphs, native, bars[:100], memory_mb=1.0, settings=settings, seed=0)


def test_the_memory_is_that_of_a_process_that_serves(tmp_path):
    folder = bundles.write_bundle(tmp_path, bundles.describe())
    block = np.ones(1 << 26)  # 512 MB here
    assert 100 < latency.measure_memory_mb(folder, list_bars(make_bars(40))) < 500 < block.nbytes / 1e6


def test_caches_are_warmed_until_shortly_before_an_arrival(monkeypatch):
    now, calls = [0], []

    def tick() -> int:
        now[0] += 100_000
        return now[0]

    monkeypatch.setattr(time, "perf_counter_ns", tick)
    arrival_ns = np.array([0, 2_000_000])
    latency.measure_open_loop(lambda _: None, [{}, {}], arrival_ns, while_waiting=lambda: calls.append(now[0]))
    assert calls == list(range(400_000, 1_600_000, 100_000))  # the second bar arrives at 2,100,000
