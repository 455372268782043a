"""What pictures show, asked of the figures themselves."""

import pytest

from pipeline import curves

TREE = {"train": 0.5, "valid": 0.6}
NET = TREE | {"gradient_norm": 0.2, "gradient_norm_max": 1.0}
AGENT = TREE | {
    "episode_return": 0.01,
    "noise": 0.3,
    "value": 1.0,
    "value_deviation": 0.2,
    "critic_loss": 0.4,
    "shortfall": 2.0,
    "violations": 0.05,
    "turnover": 0.1,
}
UNITS = [unit for unit, _ in curves.PANELS]


def told(entry, *, rounds=3):
    return [{"round": at + 1, **entry} for at in range(rounds)]


def panels(histories):
    return [axes for axes in curves.learning_curves(histories, title="a").axes if axes.get_visible()]


@pytest.mark.parametrize(
    ("entry", "units"),
    [(TREE, UNITS[:1]), (NET, UNITS[:2]), (AGENT, [UNITS[0], *UNITS[2:]]), (AGENT | NET, UNITS)],
    ids=["tree", "net", "agent", "all"],
)
def test_learning_curves_have_a_panel_for_what_is_told_and_no_other(entry, units):
    shown = panels([told(entry)] * 2)
    assert [axes.get_ylabel() for axes in shown] == units
    assert sum(len(axes.lines) for axes in shown) == 2 * len(entry)


def test_a_panel_appears_where_a_single_fit_tells_of_it():
    shown = panels([told(TREE), told({"critic_loss": 0.4}), told(TREE)])
    assert [axes.get_ylabel() for axes in shown] == ["loss", "loss of the critic"]
    assert [len(line.get_xdata()) for line in shown[1].lines] == [0, 3, 0]


def test_the_final_fit_is_drawn_thicker_and_alone_is_named():
    (loss,) = panels([told({"valid": 0.6}), told({"valid": 0.5}), told({"valid": 0.4})])
    assert [line.get_linewidth() for line in loss.lines] == [0.7, 0.7, 1.8]
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["valid, final fit"]
    assert set(loss.lines[-1].get_ydata()) == {0.4}


def test_two_panels_stand_one_under_another_and_more_in_two_columns():
    columns = {
        len(shown): {axes.get_subplotspec().colspan.start for axes in shown}
        for shown in (panels([told(entry)]) for entry in (TREE, NET, AGENT, AGENT | NET))
    }
    assert columns == {1: {0}, 2: {0}, 6: {0, 1}, 7: {0, 1}}


@pytest.mark.parametrize("entry", [NET, AGENT, AGENT | NET], ids=["net", "agent", "all"])
def test_rounds_are_told_below_each_column_and_nowhere_else(entry):
    shown = panels([told(entry)])
    columns = 1 if len(shown) == 2 else 2
    assert [axes.get_xlabel() for axes in shown] == [""] * (len(shown) - columns) + ["round"] * columns
