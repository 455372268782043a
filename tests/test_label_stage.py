"""The stage `label`: what its report says of tails, and the targets that it refuses."""

import numpy as np
import pandas as pd
import pytest

from pipeline import config
from pipeline.datasets.klines.words import WORDS
from pipeline.datasets.orderbook.words import WORDS as EVENTS
from pipeline.labels import KINDS, Labels
from pipeline.stages import label
from pipeline.targets import Target


def make_labels(y: np.ndarray, *, raw: np.ndarray | None = None, clipped: int = 0) -> Labels:
    """Return labels whose table has only what the report reads."""
    raw = y if raw is None else raw
    largest = float(np.abs(y).max())
    return Labels(table=pd.DataFrame({"y": y, "raw": raw}), lost={}, ties=0, clipped=clipped, largest=largest)


def make_target(kind: str) -> Target:
    return Target(name="it", horizon_bars=5, output=KINDS[kind].output)


def test_tails_are_the_share_of_squares_in_the_largest_ten_thousandth_of_rows() -> None:
    y = np.tile([1.0, -1.0], 10_000).astype(np.float32)
    y[:2] = -3.0, 4.0
    raw = np.where(np.arange(20_000) == 7, 2.0, 1.0)
    report = label.report_tails(make_labels(y, raw=raw, clipped=1), make_target("return"), words=WORDS)
    assert report["tails"] == {
        "rows": 2,
        "square_share": pytest.approx(25 / (25 + 19_998)),
        "raw_square_share": pytest.approx(5 / (4 + 19_999)),
        "largest": 4.0,
        "clipped_share": 1 / 20_000,
    }
    assert report["warnings"] == []


def test_a_few_rows_with_most_of_the_squares_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    y = np.ones(10_000, dtype=np.float32)
    y[3] = 200.0
    report = label.report_tails(make_labels(y, raw=np.ones(10_000)), make_target("position"), words=WORDS)
    expected = (
        "it: 1 of 10000 labels have 80% of the sum of y² (of raw returns 0%), above 20%: models learn these few rows; "
        "lower clip_sigma or raise volatility_window"
    )
    assert report["warnings"] == [expected]
    assert caplog.messages == [expected]


def test_of_an_order_book_the_warning_names_the_key_that_its_targets_have() -> None:
    y = np.ones(10_000, dtype=np.float32)
    y[3] = 200.0
    report = label.report_tails(make_labels(y, raw=y), make_target("return"), words=EVENTS)
    (warning,) = report["warnings"]
    assert warning.endswith("models learn these few rows; set clip_half_spreads, or lower it")


def test_a_few_raw_returns_with_most_of_the_squares_are_a_warning_though_y_is_clipped(caplog) -> None:
    raw = np.ones(10_000)
    raw[3] = 200.0
    labeled = make_labels(np.ones(10_000, dtype=np.float32), raw=raw)
    report = label.report_tails(labeled, make_target("position"), words=WORDS)
    assert report["warnings"] == [
        "it: 1 of 10000 raw returns have 80% of their sum of squares, above 20%; the largest |y| before the clip is 1: "
        "check these bars for bad prints or splits that are not adjusted"
    ]
    assert caplog.messages == report["warnings"]


def test_a_bounded_target_has_no_tails() -> None:
    y = np.array([0, 1, 1], dtype=np.int32)
    assert label.report_tails(make_labels(y), make_target("direction"), words=WORDS) == {}
    assert label.report_tails(make_labels(y.astype(np.float32)), make_target("trend"), words=WORDS) == {}


@pytest.mark.parametrize(
    ("kind", "y", "message"),
    [
        (
            "barrier",
            np.ones(9, dtype=np.int32),
            r"targets.it: all 9 labels are the same \(down 0%, flat 100%, up 0%\); targets.it needs at least two "
            "classes: change its horizon, or move its barriers, or use another source of bars$",
        ),
        ("direction", np.zeros(9, dtype=np.int32), r"\(down 100%, up 0%\).*change its horizon, or use another source"),
        ("trend", np.full(9, 0.5, dtype=np.float32), r"\(y is 0.5 in every row\); change the horizon of targets.it"),
    ],
)
def test_a_target_whose_labels_are_all_the_same_is_refused(kind: str, y: np.ndarray, message: str) -> None:
    with pytest.raises(config.ParamsError, match=message):
        label.check_variation(make_labels(y), make_target(kind), name="targets.it", words=WORDS)


def test_a_rare_second_class_is_enough() -> None:
    y = np.append(np.ones(999, dtype=np.int32), 2)
    label.check_variation(make_labels(y), make_target("barrier"), name="targets.it", words=WORDS)


def test_a_target_whose_labels_over_a_shorter_horizon_are_all_the_same_is_refused() -> None:
    labeled = make_labels(np.arange(10, dtype=np.float32))
    labeled.table[["y_1", "time", "label_end"]] = np.float32(1), 0, 300_000
    with pytest.raises(
        config.ParamsError, match="targets.it: all 10 labels y_1 are the same; leave that one out of its horiz"
    ):
        label.check_variation(labeled, make_target("return"), name="targets.it", words=WORDS)
    labeled.table["y_1"] = -labeled.table["y"]
    label.check_variation(labeled, make_target("return"), name="targets.it", words=WORDS)
    assert label.summarize_labels(labeled, make_target("return"), bars=10, unit="ms")["y_1"]["mean"] == -4.5
