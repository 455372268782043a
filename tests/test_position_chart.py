"""The contents of the position chart, and the window that it shows bar by bar."""

import numpy as np
import pytest

from pipeline.reporting import position_chart
from pipeline.reporting.position_chart import PositionHistory

MINUTE = 60_000


def make_history(position, *, net=None, price=None) -> PositionHistory:
    bars = len(position)
    return PositionHistory.from_returns(
        np.arange(bars + 1) * MINUTE,
        price=np.array(price or [100.0] * (bars + 1)),
        position=np.array(position),
        turnover=np.abs(np.diff(position, prepend=0.0)),
        net=np.array(net or [0.0] * bars),
    )


def walk_randomly(bars: int, *, traded: float) -> PositionHistory:
    """Return the history of a random walk of `bars` bars, with random positions."""
    rng = np.random.default_rng(1)
    move, target = 1e-3 * rng.normal(size=bars), rng.uniform(-1, 1, size=bars)
    position = np.where(rng.random(bars) < traded, target, 0.0)
    price = 100.0 * np.cumprod(np.concatenate([[1.0], 1.0 + move]))
    return make_history(position.tolist(), net=(position * move).tolist(), price=price.tolist())


def test_the_busiest_window_has_the_highest_turnover_and_is_the_first_of_equals():
    change = np.array([1.0, 0.0, -1.0, 0.0, 2.0, -2.0, 0.0, 0.0, 2.0, -2.0])
    # two bars begin and end at three instants, which trade 2, 1, 3, 4, 4, 2, 2, 4
    assert position_chart.find_busiest_window(change, bars=2) == 3
    assert position_chart.find_busiest_window(change, bars=100) == 0
    assert position_chart.find_busiest_window(np.array([0.3, 0.3, 0.0, 0.1, 0.2, 0.3]), bars=2) == 0


def test_a_history_begins_and_ends_flat_and_every_change_between_is_a_trade():
    assert make_history([0.5, 0.5, -0.5]).change.tolist() == [0.5, 0.0, -1.0, 0.5]


def test_equity_and_buy_and_hold_begin_with_one():
    history = make_history([1.0, 1.0], net=[0.1, -0.5], price=[50.0, 60.0, 45.0])
    assert history.equity == pytest.approx([1.0, 1.1, 0.55])
    assert history.buy_and_hold == pytest.approx([1.0, 1.2, 0.9])
    assert history.peak == pytest.approx([1.0, 1.1, 1.1])


def test_a_window_begins_with_one_again_and_has_the_trades_of_its_bars():
    history = make_history([1.0, -1.0, 0.0, 0.5], net=[1.0, 0.5, 0.0, 0.1], price=[1.0, 2.0, 3.0, 4.0, 5.0])
    part = history.slice_bars(1, bars=2)
    assert (part.time // MINUTE).tolist() == [1, 2, 3]
    assert (part.position.tolist(), part.change.tolist()) == ([-1.0, 0.0], [-2.0, 1.0, 0.5])
    assert part.equity == pytest.approx([1.0, 1.5, 1.5])
    assert part.buy_and_hold.tolist() == [1.0, 1.5, 2.0]


def test_the_last_part_has_the_positions_of_the_whole_at_least_one_bar_of_them():
    history = make_history([1.0, 0.5, -1.0, 0.0, 0.5], net=[0.1, 0.0, 0.2, 0.0, 0.1])
    part = history.take_last(0.3)
    assert (part.position.tolist(), (part.time // MINUTE).tolist()) == ([0.0, 0.5], [3, 4, 5])
    assert part.change.tolist() == [1.0, 0.5, -0.5]  # at its first instant it comes from the position before
    assert part.equity == pytest.approx([1.0, 1.0, 1.1])
    assert history.take_last(0.01).position.tolist() == [0.5]
    assert history.take_last(1.0).position.tolist() == history.position.tolist()


def test_trades_of_the_busiest_window_are_marked_at_their_prices():
    figure = position_chart.plot_positions(make_history([0.5, 0.5, -0.5], price=[1.0, 2.0, 3.0, 4.0]), title="a")
    marks = {points.get_label(): points.get_offsets()[:, 1].tolist() for points in figure.axes[1].collections}
    assert (marks["bought"], marks["sold"]) == ([1.0, 4.0], [3.0])


def test_a_long_time_is_shown_by_the_mean_position_of_bins_and_the_busiest_window_by_every_bar():
    history = walk_randomly(20_000, traded=0.5)
    *_, whole, zoom, _, _ = position_chart.plot_positions(history, title="a").axes
    means = [
        np.concatenate([axes.patches[1].get_data().values, axes.patches[3].get_data().values]) for axes in (whole, zoom)
    ]
    assert len(means[0]) == 2 * position_chart.POSITION_BINS
    assert len(means[1]) == 2 * position_chart.ZOOM_BARS
    start = position_chart.find_busiest_window(history.change, bars=position_chart.ZOOM_BARS)
    shown = history.position[start : start + position_chart.ZOOM_BARS]
    assert means[1].reshape(2, -1).sum(axis=0).tolist() == shown.tolist()
    assert means[0].sum() / position_chart.POSITION_BINS == pytest.approx(history.position.mean(), abs=1e-4)


@pytest.mark.parametrize("bars", [1, 50, 3000])
def test_the_chart_of_a_model_that_never_trades_says_so(bars):
    figure = position_chart.plot_positions(walk_randomly(bars, traded=0.0), title="idle")
    figure.draw_without_rendering()
    assert figure.get_suptitle() == "idle"
    assert figure.axes[0].get_title("left") == f"{bars:,} bars: it never trades"


def test_a_model_that_loses_everything_has_a_chart():
    history = make_history([0.0] * 300 + [1.0, -1.0] * 200, net=[0.0, -1.5] + [0.0] * 698)
    figure = position_chart.plot_positions(history, title="ruined")
    figure.draw_without_rendering()
    assert figure.axes[4].get_title("left") == "equity −100.00%, buy and hold +0.00%, maximum drawdown 100.00%"
