"""The position charts of all models: candles of the same bars stand on the page once."""

from collections.abc import Mapping, Sequence

from pipeline.reporting.tear_sheet.blocks import Figure, Note
from pipeline.reporting.tear_sheet.candles import plot_stretch
from pipeline.reporting.tear_sheet.evidence import Bars, ModelEvidence
from pipeline.reporting.tear_sheet.stretches import Stretch, pick_stretches

NO_BARS = "the rows of this dataset have no open, high and low"
NO_TRADE = "the median path never trades"
LEGEND = (
    "Blue candles rise, red ones fall. Dots are orders at the close that decides them: green opens long, red opens "
    "short, a ring closes; changes of size between them are not shown."
)


def draw_positions(models: Sequence[ModelEvidence], bars: Mapping[str, Bars]) -> dict[str, list[Figure | Note]]:
    """Return by model the chart of each of its stretches, or the reason why there is none."""
    owners: dict[str, str] = {}
    charts: dict[str, list[Figure | Note]] = {}
    for model in models:
        if not bars or model.round_trips.empty:
            charts[model.name] = [Note(f"Positions: no chart: {NO_TRADE if bars else NO_BARS}.")]
            continue
        stretches = pick_stretches(model, bars)
        for stretch in stretches:
            owners.setdefault(stretch.key, model.name)
        charts[model.name] = [
            draw_position(model, each, bars[each.symbol], has_candles=owners[each.key] == model.name)
            for each in stretches
        ]
    return charts


def draw_position(model: ModelEvidence, stretch: Stretch, bars: Bars, *, has_candles: bool) -> Figure:
    """Return the chart of one stretch, with its caption."""
    title = f"Positions on the {stretch.name}: {model.name}, {stretch.symbol}"
    return Figure(title, plot_stretch(model, stretch, bars, has_candles=has_candles), note=LEGEND, is_wide=True)
