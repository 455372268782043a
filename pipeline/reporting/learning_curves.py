"""Learning curves: the histories of fits, iteration by iteration, as one plot."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.reporting.plots import BLUE, GRAY, INK, ORANGE, RED, style_axes

History = Sequence[Mapping[str, float]]  # one entry for each iteration

PANELS: tuple[tuple[str, dict[str, str]], ...] = (  # the label of a panel, and the color of each history field in it
    ("loss", {"train_loss": BLUE, "valid_loss": ORANGE}),
    ("gradient norm before clipping", {"grad_norm": GRAY, "grad_norm_max": RED}),
    ("critic loss", {"critic_loss": BLUE}),
    ("net return of an episode", {"episode_return": BLUE}),
    ("return predicted by the critic", {"value": BLUE, "value_std": GRAY, "expected_shortfall": RED}),
    ("share of returns beyond the VaR", {"var_violation_rate": RED}),
    ("share of the capital", {"turnover": BLUE, "exploration_noise": GRAY}),
)


def plot_learning_curves(
    histories: Sequence[History], *, title: str, targets: Mapping[str, float] | None = None
) -> Figure:
    """Return a panel for each group of fields that some history has, with one line for every fit; the last is final.

    `targets` are the values that fields should have, such as the share of returns beyond a value at risk.
    """
    recorded = {name for history in histories for entry in history for name in entry}
    panels = [
        (label, {name: color for name, color in fields.items() if name in recorded})
        for label, fields in PANELS
        if fields.keys() & recorded
    ]
    figure, all_axes = _make_panels(len(panels))
    for axes, (label, fields) in zip(all_axes, panels, strict=True):
        style_axes(axes, title if axes is all_axes[0] else "")
        axes.set_ylabel(label)
        for target in (value for name, value in (targets or {}).items() if name in fields):
            axes.axhline(target, color=INK, lw=1.0, ls="--", label=f"target, {target:.3g}")
        _draw_histories(axes, histories, fields)
    return figure


def _make_panels(count: int) -> tuple[Figure, list[Axes]]:
    """Return a figure with `count` panels that share the iterations: up to two in one column, more in two columns."""
    columns = 1 if count <= 2 else 2
    rows = -(-count // columns)
    width, heights = (7.0, [4.2, *[2.6] * (rows - 1)]) if columns == 1 else (11.0, [2.8] * rows)
    figure = Figure(figsize=(width, sum(heights)), dpi=100, layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, squeeze=False, height_ratios=heights).ravel()
    for axes in panels[count:]:
        axes.set_visible(False)
    for axes in panels[count - columns : count]:  # the lowest of each column
        axes.set_xlabel("iteration")
        axes.tick_params(labelbottom=True)
    return figure, list(panels[:count])


def _draw_histories(axes: Axes, histories: Sequence[History], fields: Mapping[str, str]) -> None:
    """Draw a line for every fit and every field, in the color of the field."""
    for fit, history in enumerate(histories):
        is_final = fit == len(histories) - 1
        width, alpha = (1.8, 1.0) if is_final else (0.7, 0.35)
        for name, color in fields.items():
            recorded = [entry for entry in history if name in entry]
            rounds, values = [entry["iteration"] for entry in recorded], [entry[name] for entry in recorded]
            label = f"{name.replace('_', ' ')}, final fit" if is_final else None
            marker = "o" if len(rounds) == 1 else None  # a line through one point is invisible
            axes.plot(rounds, values, color=color, lw=width, alpha=alpha, label=label, marker=marker)
    axes.legend(frameon=False)
