"""What a picture of behaviour shows, and where it looks closely."""

import numpy as np
import pytest

from pipeline import behaviour
from pipeline.behaviour import Behaviour

MINUTE = 60_000


def behaved(position, *, net=None, price=None) -> Behaviour:
    bars = len(position)
    return Behaviour.of(
        np.arange(bars + 1) * MINUTE,
        price=np.array(price or [100.0] * (bars + 1)),
        position=np.array(position),
        net=np.array(net or [0.0] * bars),
    )


def long_walk(bars: int, *, traded: float) -> Behaviour:
    """As many bars of a random walk, with a position that follows chance."""
    rng = np.random.default_rng(1)
    move, wanted = 1e-3 * rng.normal(size=bars), rng.uniform(-1, 1, size=bars)
    position = np.where(rng.random(bars) < traded, wanted, 0.0)
    price = 100.0 * np.cumprod(np.concatenate([[1.0], 1.0 + move]))
    return behaved(position.tolist(), net=(position * move).tolist(), price=price.tolist())


def test_the_busiest_stretch_trades_most_and_is_the_first_of_equals():
    change = np.array([1.0, 0.0, -1.0, 0.0, 2.0, -2.0, 0.0, 0.0, 2.0, -2.0])
    # two bars begin and end at three instants, which trade 2, 1, 3, 4, 4, 2, 2, 4
    assert behaviour.busiest(change, bars=2) == 3
    assert behaviour.busiest(change, bars=100) == 0
    assert behaviour.busiest(np.array([0.3, 0.3, 0.0, 0.1, 0.2, 0.3]), bars=2) == 0


def test_it_begins_and_ends_flat_and_every_change_between_is_a_trade():
    assert behaved([0.5, 0.5, -0.5]).change.tolist() == [0.5, 0.0, -1.0, 0.5]


def test_equity_begins_with_one_and_so_does_that_of_buying_and_holding():
    done = behaved([1.0, 1.0], net=[0.1, -0.5], price=[50.0, 60.0, 45.0])
    assert done.equity == pytest.approx([1.0, 1.1, 0.55])
    assert done.held == pytest.approx([1.0, 1.2, 0.9])
    assert done.peak == pytest.approx([1.0, 1.1, 1.1])


def test_a_stretch_begins_with_one_again_and_trades_what_was_traded_there():
    done = behaved([1.0, -1.0, 0.0, 0.5], net=[1.0, 0.5, 0.0, 0.1], price=[1.0, 2.0, 3.0, 4.0, 5.0])
    part = done.stretch(1, bars=2)
    assert (part.time // MINUTE).tolist() == [1, 2, 3]
    assert (part.position.tolist(), part.change.tolist()) == ([-1.0, 0.0], [-2.0, 1.0, 0.5])
    assert part.equity == pytest.approx([1.0, 1.5, 1.5])
    assert part.held.tolist() == [1.0, 1.5, 2.0]


def test_what_is_bought_and_sold_in_the_busiest_stretch_is_marked_where_it_was():
    picture = behaviour.figure(behaved([0.5, 0.5, -0.5], price=[1.0, 2.0, 3.0, 4.0]), title="a")
    marks = {points.get_label(): points.get_offsets()[:, 1].tolist() for points in picture.axes[1].collections}
    assert (marks["bought"], marks["sold"]) == ([1.0, 4.0], [3.0])


def test_a_long_time_is_shown_by_the_mean_position_of_bins_and_the_busiest_stretch_by_every_bar():
    done = long_walk(20_000, traded=0.5)
    *_, whole, zoom, _, _ = behaviour.figure(done, title="a").axes
    means = [
        np.concatenate([axes.patches[1].get_data().values, axes.patches[3].get_data().values]) for axes in (whole, zoom)
    ]
    assert len(means[0]) == 2 * behaviour.BINS
    assert len(means[1]) == 2 * behaviour.ZOOM_BARS
    start = behaviour.busiest(done.change, bars=behaviour.ZOOM_BARS)
    shown = done.position[start : start + behaviour.ZOOM_BARS]
    assert means[1].reshape(2, -1).sum(axis=0).tolist() == shown.tolist()
    assert means[0].sum() / behaviour.BINS == pytest.approx(done.position.mean(), abs=1e-4)


@pytest.mark.parametrize("bars", [1, 50, 3000])
def test_a_model_that_never_trades_has_a_picture_that_says_so(bars):
    picture = behaviour.figure(long_walk(bars, traded=0.0), title="idle")
    picture.draw_without_rendering()
    assert picture.axes[0].get_title("left") == "idle: it never trades"


def test_a_model_that_loses_everything_has_a_picture():
    done = behaved([0.0] * 300 + [1.0, -1.0] * 200, net=[0.0, -1.5] + [0.0] * 698)
    picture = behaviour.figure(done, title="ruined")
    picture.draw_without_rendering()
    assert picture.axes[4].get_title("left") == "equity −100.00%, buy and hold +0.00%, drawdown 100.00%"
