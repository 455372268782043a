"""How fits went, round by round: histories in, a figure out."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.plots import BLUE, GREY, ORANGE, RED, dress

PANELS: tuple[tuple[str, dict[str, str]], ...] = (  # the unit of a panel, and the colours of what it shows by round
    ("loss", {"train": BLUE, "valid": ORANGE}),
    ("gradient norm, before clipping", {"gradient_norm": GREY, "gradient_norm_max": RED}),
    ("loss of the critic", {"critic_loss": BLUE}),
    ("net return of an episode", {"episode_return": BLUE}),
    ("what the critic foresees", {"value": BLUE, "value_deviation": GREY, "shortfall": RED}),
    ("share of stretches beyond the VaR", {"violations": RED}),
    ("share of the capital", {"turnover": BLUE, "noise": GREY}),
)


def learning_curves(histories: Sequence[Sequence[Mapping[str, float]]], *, title: str) -> Figure:
    """What the histories tell by round, a line for every fit, the last the final one; a panel where one tells of it."""
    told = {name for history in histories for entry in history for name in entry}
    panels = [
        (unit, {name: colour for name, colour in lines.items() if name in told})
        for unit, lines in PANELS
        if lines.keys() & told
    ]
    figure, all_axes = _stacked(len(panels))
    for axes, (unit, lines) in zip(all_axes, panels, strict=True):
        dress(axes, title if axes is all_axes[0] else "")
        axes.set_ylabel(unit)
        _histories(axes, histories, lines)
    return figure


def _stacked(count: int) -> tuple[Figure, list[Axes]]:
    """Panels over common rounds: up to two stand one under another, more are small ones in two columns."""
    columns = 1 if count <= 2 else 2
    rows = -(-count // columns)
    width, heights = (7.0, [4.2, *[2.6] * (rows - 1)]) if columns == 1 else (11.0, [2.8] * rows)
    figure = Figure(figsize=(width, sum(heights)), dpi=100, layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, squeeze=False, height_ratios=heights).ravel()
    for axes in panels[count:]:
        axes.set_visible(False)
    for axes in panels[count - columns : count]:  # nothing stands below them
        axes.set_xlabel("round")
        axes.tick_params(labelbottom=True)
    return figure, list(panels[:count])


def _histories(axes: Axes, histories: Sequence[Sequence[Mapping[str, float]]], lines: Mapping[str, str]) -> None:
    """A line for every fit and every name of its history, in the colour given."""
    for fit, history in enumerate(histories):
        final = fit == len(histories) - 1
        width, alpha = (1.8, 1.0) if final else (0.7, 0.35)
        for name, colour in lines.items():
            told = [entry for entry in history if name in entry]
            rounds, values = [entry["round"] for entry in told], [entry[name] for entry in told]
            label = f"{name.replace('_', ' ')}, final fit" if final else None
            axes.plot(rounds, values, color=colour, lw=width, alpha=alpha, label=label)
    axes.legend(frameon=False)
