"""The 98 columns of a limit order book: their names, whose index is their position, gates, groups and presets.

The order is that of schema 2.2 of the public contract (nagarx/feature-extractor-MBO-LOB, docs/FEATURE_REFERENCE.md).
README.md of this folder has the formula, unit, sign and look-back of each.
"""

LEVELS = 10  # price levels of each side
SCHEMA_VERSION = 2.2


def _number_levels(name: str) -> tuple[str, ...]:
    """Return the names of a quantity at each level, the best first."""
    return tuple(f"{name}_{level}" for level in range(1, LEVELS + 1))


BOOK = tuple(
    name for quantity in ("ask_price", "ask_size", "bid_price", "bid_size") for name in _number_levels(quantity)
)
DERIVED = (
    "mid_price",
    "spread",
    "spread_bps",
    "total_bid_size",
    "total_ask_size",
    "size_imbalance",
    "microprice",
    "microprice_distance",
)
FLOW = (
    "bid_adds_per_s",
    "ask_adds_per_s",
    "bid_cancels_per_s",
    "ask_cancels_per_s",
    "bid_trades_per_s",
    "ask_trades_per_s",
    "net_order_flow",
    "net_cancel_flow",
    "net_trade_flow",
    "trades_per_add",
    "net_order_flow_std",
    "fast_over_slow_flow",
)
SIZE = (
    "size_p25",
    "size_p50",
    "size_p75",
    "size_p90",
    "last_size_z_score",
    "large_size_share",
    "size_skewness",
    "size_herfindahl",
)
QUEUE = (
    "mean_queue_position_orders",
    "mean_size_ahead",
    "orders_per_level",
    "level_size_herfindahl",
    "bid_depth_ticks",
    "ask_depth_ticks",
)
LARGE = ("large_orders_per_s", "large_order_imbalance", "mean_modifications", "iceberg_proxy")
LIFECYCLE = (
    "mean_order_age_s",
    "median_order_lifetime_s",
    "mean_fill_ratio",
    "mean_time_to_first_fill_s",
    "cancels_per_add",
    "active_orders",
)
SIGNALS = (
    "order_flow_imbalance",
    "order_flow_imbalance_over_depth",
    "net_trades_per_s",
    "microprice_change_bps",
    "trade_asymmetry",
    "cancel_asymmetry",
    "fragility",
    "depth_asymmetry",
)
META = ("book_valid", "time_regime", "mbo_ready", "dt_seconds", "invalidity_delta", "schema_version")

GROUPS = {
    "book": BOOK,
    "derived": DERIVED,
    "flow": FLOW,
    "size": SIZE,
    "queue": QUEUE,
    "large": LARGE,
    "lifecycle": LIFECYCLE,
    "signals": SIGNALS,
    "meta": META,
}
COLUMNS = tuple(name for names in GROUPS.values() for name in names)
GROUP_OF = {name: group for group, names in GROUPS.items() for name in names}

_, FIRST_DERIVED, FIRST_FLOW, FIRST_SIZE, FIRST_QUEUE, FIRST_LARGE, FIRST_LIFECYCLE, FIRST_SIGNAL, FIRST_META = (
    COLUMNS.index(names[0]) for names in GROUPS.values()
)

BOOK_VALID, TIME_REGIME, MBO_READY, DT_SECONDS, INVALIDITY_DELTA, SCHEMA = range(FIRST_META, len(COLUMNS))
NET_TRADE_FLOW = 56  # positive where more trades were bought than sold: buying pressure
MICROPRICE_DISTANCE = 47  # unsigned: not for direction
GATES = {BOOK_VALID: 1.0, MBO_READY: 1.0, INVALIDITY_DELTA: 0.0}  # index: the value with which alone a row counts
CATEGORICAL = (BOOK_VALID, TIME_REGIME, MBO_READY, SCHEMA)  # never standardized

PRESETS = {
    "lob_only": COLUMNS[:40],
    "lob_derived": COLUMNS[:48],
    "full": COLUMNS,
    "signals_core": COLUMNS[84:92],
    "signals_full": COLUMNS[84:98],
    "lob_signals": COLUMNS[:40] + COLUMNS[84:92],
    "no_meta": COLUMNS[:92],
    "deeplob_extended": COLUMNS[:48],
}
