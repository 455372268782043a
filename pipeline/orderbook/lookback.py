"""The look-back of each column, in events: an embargo has to span the longest."""

from pipeline.orderbook.columns import BOOK, COLUMNS, DERIVED, GROUP_OF
from pipeline.orderbook.settings import Settings

OF_ONE_EVENT = {*BOOK, *DERIVED, "level_size_herfindahl", "bid_depth_ticks", "ask_depth_ticks", "fragility"} | {
    "depth_asymmetry",
    "book_valid",
    "time_regime",
    "schema_version",
}
OF_TWO_EVENTS = {"order_flow_imbalance", "order_flow_imbalance_over_depth", "microprice_change_bps", "dt_seconds"}
OF_MEDIUM_WINDOW = {
    "large_orders_per_s",
    "large_order_imbalance",
    "cancels_per_add",
    "net_trades_per_s",
    "trade_asymmetry",
    "cancel_asymmetry",
}


def list_lookbacks(settings: Settings) -> dict[str, int]:
    """Return the look-back of each column in events.

    Columns of the orders since the segment's start have no bound; the slow window stands for them: an order that is
    older than that weighs little in their means.
    """
    _, medium, slow = settings.windows
    lookbacks = dict.fromkeys(COLUMNS, slow)
    for name in COLUMNS:
        if name in OF_ONE_EVENT:
            lookbacks[name] = 0
        elif name in OF_TWO_EVENTS:
            lookbacks[name] = 1
        elif name != "fast_over_slow_flow" and (name in OF_MEDIUM_WINDOW or GROUP_OF[name] in ("flow", "size")):
            lookbacks[name] = medium
    return lookbacks
