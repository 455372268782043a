"""Name the rows of an export in messages."""

from pipeline.datasets.words import Words

WORDS = Words(
    row="row",
    few_features="rows count that pass the gates book_valid, mbo_ready and invalidity_delta: give more of them",
    wrong_column="correct {column} of the export; python -m pipeline.orderbook.validate_export lists its faults",
)
