"""Name the rows of klines in messages: bars."""

from pipeline.datasets.words import Words

WORDS = Words(
    row="bar",
    few_features="give more bars or shorter windows; where the source leaves out bars without trades, fill them with "
    "the last close and volume 0 (sources.file.fill_gaps_bars)",
    shorter_reach="give more bars, or shorter windows of features",
    wrong_column="correct the column in pipeline/features/{folder}/{group}.py, or its warm-up",
    wide_tails="lower clip_sigma or raise volatility_window",
)
