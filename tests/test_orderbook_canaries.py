"""The leaks that are planted in order books: the named guard catches each, and the clean counterparts are quiet."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline import config
from pipeline.datasets.orderbook import canaries, ingest
from pipeline.leakage.canaries.canary import Outcome
from pipeline.leakage.canaries.orderbook.market import MIN_EVENTS, REMOVED_EVENTS, cut_segment
from pipeline.leakage.settings import GuardSettings
from pipeline.orderbook.sources import simulated_book
from pipeline.stages import canary
from pipeline.stages.canary import make_report, render_markdown
from tests.params import PARAMS

SETTINGS = GuardSettings(cuts=12, look_ahead_ratio=0.6, look_ahead_floor=0.05, correlation_threshold=0.95)
FEATURES: dict[str, Any] = {"columns": "signals_full", "ready_events": 100}


def make_clean(*, events: int) -> pd.DataFrame:
    """Return the clean table of a day of the default simulated book."""
    block = PARAMS["sources"]["simulated_book"] | {"days": 1, "events_per_day": events}
    block.pop("kind")
    table, _ = config.call_with(simulated_book.load, block=block, name="sources.simulated_book")
    return ingest.clean(table, days_per_year=252, hours_per_day=6.5)[0]


def run(events: pd.DataFrame) -> list[Outcome]:
    return list(canaries.run_canaries(events, FEATURES, settings=SETTINGS, seed=1))


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    return {outcome.name: outcome for outcome in run(make_clean(events=8_000))}


@pytest.mark.parametrize("name", canaries.NAMES)
def test_a_leak_is_caught_by_the_guard_that_it_names_and_its_counterpart_is_quiet(
    name: str, outcomes: dict[str, Outcome]
):
    assert outcomes[name].list_failures() == []
    assert outcomes[name].guard in canaries.GUARDS


def test_the_report_has_every_canary_of_the_kind(outcomes: dict[str, Outcome]):
    found = list(outcomes.values())
    report = make_report(found)
    assert list(report["outcomes"]) == list(canaries.NAMES)
    assert report["caught"] == len(canaries.NAMES)
    page = render_markdown("orderbook", found, canaries.GUARDS)
    assert f"{len(canaries.NAMES)} of {len(canaries.NAMES)} canaries caught" in page
    assert "| `book_gates_ignored` | ● |" in page


def test_a_single_segment_is_cut_in_two_with_events_missing_between():
    events = pd.DataFrame({"open_time": np.arange(100), "segment": np.int32(3)})
    cut = cut_segment(events)
    assert cut["segment"].tolist() == [3] * 40 + [4] * 40
    assert np.diff(cut["open_time"]).max() == REMOVED_EVENTS + 1


def test_too_few_events_are_refused_with_the_number_that_is_needed():
    with pytest.raises(ValueError, match=rf"the longest segment has 1\d\d\d events; at least {MIN_EVENTS}"):
        run(make_clean(events=1_500))


def test_the_stage_plants_the_canaries_of_the_kind(monkeypatch):
    params = PARAMS | {"datasets": {"book": PARAMS["disabled_datasets"]["orderbook"]}}
    planted = []
    monkeypatch.setattr(canary.config, "load_params", lambda: params)
    monkeypatch.setattr(canary, "run_own_canaries", lambda dataset, own, blocks: planted.append((dataset, own)))
    canary.main("book")
    assert planted == [("book", canaries)]
