"""The contents of the plots, read from the figures."""

import numpy as np
import pandas as pd
import pytest

from pipeline.evaluation.trainings import Training
from pipeline.reporting import learning_curves, plots

TREE = {"train_loss": 0.5, "valid_loss": 0.6}
NET = TREE | {"grad_norm": 0.2, "grad_norm_max": 1.0}
AGENT = TREE | {
    "episode_return": 0.01,
    "exploration_noise": 0.3,
    "value": 1.0,
    "value_std": 0.2,
    "critic_loss": 0.4,
    "expected_shortfall": 2.0,
    "var_violation_rate": 0.05,
    "turnover": 0.1,
}
LABELS = [label for label, _ in learning_curves.PANELS]


def make_history(entry, *, rounds=3):
    return [{"iteration": at + 1, **entry} for at in range(rounds)]


def find_panels(histories):
    return [axes for axes in learning_curves.plot_learning_curves(histories, title="a").axes if axes.get_visible()]


@pytest.mark.parametrize(
    ("entry", "labels"),
    [(TREE, LABELS[:1]), (NET, LABELS[:2]), (AGENT, [LABELS[0], *LABELS[2:]]), (AGENT | NET, LABELS)],
    ids=["tree", "net", "agent", "all"],
)
def test_learning_curves_have_a_panel_for_recorded_fields_and_no_other(entry, labels):
    shown = find_panels([make_history(entry)] * 2)
    assert [axes.get_ylabel() for axes in shown] == labels
    assert sum(len(axes.lines) for axes in shown) == 2 * len(entry)


def test_a_panel_appears_where_a_single_fit_records_it():
    shown = find_panels([make_history(TREE), make_history({"critic_loss": 0.4}), make_history(TREE)])
    assert [axes.get_ylabel() for axes in shown] == ["loss", "critic loss"]
    assert [len(line.get_xdata()) for line in shown[1].lines] == [0, 3, 0]


def test_the_one_iteration_of_a_model_fitted_in_one_step_is_a_point():
    shapes = [
        line.get_marker() for rounds in (1, 3) for line in find_panels([make_history(TREE, rounds=rounds)])[0].lines
    ]
    assert shapes == ["o", "o", "None", "None"]


def test_the_final_fit_is_drawn_thicker_and_is_the_only_one_in_the_legend():
    (loss,) = find_panels(
        [make_history({"valid_loss": 0.6}), make_history({"valid_loss": 0.5}), make_history({"valid_loss": 0.4})]
    )
    assert [line.get_linewidth() for line in loss.lines] == [0.7, 0.7, 1.8]
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["valid loss, final fit"]
    assert set(loss.lines[-1].get_ydata()) == {0.4}


def test_two_panels_share_a_column_and_more_fill_two_columns():
    columns = {
        len(shown): {axes.get_subplotspec().colspan.start for axes in shown}
        for shown in (find_panels([make_history(entry)]) for entry in (TREE, NET, AGENT, AGENT | NET))
    }
    assert columns == {1: {0}, 2: {0}, 6: {0, 1}, 7: {0, 1}}


@pytest.mark.parametrize("entry", [NET, AGENT, AGENT | NET], ids=["net", "agent", "all"])
def test_rounds_are_labeled_below_each_column_and_nowhere_else(entry):
    shown = find_panels([make_history(entry)])
    columns = 1 if len(shown) == 2 else 2
    assert [axes.get_xlabel() for axes in shown] == [""] * (len(shown) - columns) + ["iteration"] * columns


def test_the_target_of_the_value_at_risk_is_a_dashed_level_in_its_own_panel():
    parameters = {"shared": {"var_level": 0.95}, "hyperparameters": {"gamma": 0.9}}
    targets = Training(pd.DataFrame(), pd.DataFrame(), parameters=parameters).targets
    figure = learning_curves.plot_learning_curves([make_history(AGENT)] * 2, title="a", targets=targets)
    dashed = {
        axes.get_ylabel(): line.get_ydata()[0]
        for axes in figure.axes
        for line in axes.lines
        if line.get_linestyle() == "--"
    }
    assert dashed == {"share of returns beyond the VaR": pytest.approx(0.05)}


@pytest.mark.parametrize("parameters", [{}, {"shared": None, "hyperparameters": {"gamma": 0.9}}], ids=str)
def test_a_model_without_a_value_at_risk_has_no_target(parameters):
    assert Training(pd.DataFrame(), pd.DataFrame(), parameters=parameters).targets == {}


def test_the_median_path_of_an_equity_plot_is_one_of_the_paths():
    time, paths = np.arange(3) * 60_000, np.array([[1.0, 1.1, 1.2], [1.0, 0.9, 0.8], [1.0, 1.3, 1.4]])
    (axes,) = plots.plot_equity(time, paths, title="a", median_path=1).axes
    drawn = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert drawn["median path (1), by Sharpe ratio"] == [1.0, 0.9, 0.8]
    assert axes.get_ylabel() == "equity, multiple of the capital"
    (axes,) = plots.plot_equity(time, paths[:1], title="a").axes
    assert not any("median" in str(line.get_label()) for line in axes.lines)
