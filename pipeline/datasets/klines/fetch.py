"""Where klines come from: every module of the package is a source, but what sources share."""

SOURCES = "pipeline.market"
NOT_SOURCES = (
    "archive",
    "bar_reader",
    "bars",
    "binance_files",
    "checks",
    "kline_columns",
    "kline_csv",
    "kline_files",
    "kline_merge",
    "kline_times",
    "sessions",
    "simulated_moves",
    "stream_clock",
    "stream_sessions",
    "table_checks",
    "time_zones",
)
