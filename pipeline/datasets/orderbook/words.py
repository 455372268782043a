"""Name the rows of an order book in messages: events."""

from pipeline.datasets.words import Words

WORDS = Words(
    row="event",
    reach="look-back",
    few_features="a row needs ready_events changes of the best levels before it in its segment, and a valid book: give "
    "more events of a day, or lower features.ready_events; a normalization needs 100 rows more, or the day before",
    shorter_reach="give more events, or lower the last of features.windows, the slow one, by which features look back; "
    "a normalization adds its own window",
    wrong_column="correct the sizes and prices of the source, or the column in pipeline/orderbook (README.md has its "
    "formula)",
    few_labels="lower its horizon, window or alpha.least_known",
    class_limits="change its alpha, threshold or barriers",
    wide_tails="set clip_half_spreads, or lower it",
)
