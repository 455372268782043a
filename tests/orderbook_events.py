"""Events of an order book for tests: the first of the real day, and a small random market whose rules are simple."""

from pathlib import Path

import numpy as np
import pandas as pd

REAL_DAY = Path(__file__).parents[2] / "shared" / "data" / "LOBSTER_GOOG_2012-06-21_L10_full_day.parquet"
DAY_NS = pd.Timestamp("2012-06-21", tz="America/New_York").value
BOOK = [f"{side}_{what}_{level}" for side in ("ask", "bid") for what in ("price", "size") for level in range(1, 11)]


def read_real_day(rows: int | None = None) -> pd.DataFrame:
    """Return the first events of the real day as a clean table."""
    table = pd.read_parquet(REAL_DAY)[:rows]
    prices = [name for name in table.columns if "price" in name]
    table[prices] = table[prices].where(table[prices].abs() < 9_999_999_999, 0) / 1e4
    table = table.rename(columns={"type": "action", "direction": "side"}).assign(symbol="GOOG", segment=0)
    return table.assign(time_ns=table["time_ns"] + DAY_NS, event=np.arange(len(table)))


def draw_events(
    count: int, *, seed: int, unit: float = 1.0, segment: int = 0, start_ns: int = DAY_NS + 34_200 * 10**9
) -> pd.DataFrame:
    """Return events of a random market, of which every 13th order was there before the first event.

    Orders rest at prices of up to 14 ticks from the middle, so that levels leave sight and come back. Sizes are
    multiples of `unit`.
    """
    rng, orders, rows = np.random.default_rng(seed), dict[int, list[float]](), list[list[float]]()
    hidden_orders, time_ns, middle = set[int](), start_ns, 10_000
    for order_id in range(40):  # known to the book alone
        orders[order_id] = [1 if order_id % 2 else -1, 0, float(rng.integers(1, 9))]
        orders[order_id][1] = middle - orders[order_id][0] * (1 + order_id // 4)
    next_id = len(orders)
    while len(rows) < count:
        time_ns += int(rng.exponential(3e7)) * int(rng.random() < 0.9)
        middle += int(rng.integers(-1, 2)) * int(rng.random() < 0.02)
        best = {side: max((side * o[1] for o in orders.values() if o[0] == side), default=None) for side in (1, -1)}
        kind = int(rng.choice([1, 2, 3, 4, 5, 6, 7], p=[0.45, 0.06, 0.29, 0.15, 0.03, 0.01, 0.01]))
        side, order_id, price, size = int(rng.choice([1, -1])), 0, middle, float(rng.integers(1, 9))
        if kind == 1 or (kind < 5 and len(orders) < 30):
            kind, order_id, next_id = 1, next_id, next_id + 1
            price = middle - side * int(rng.integers(1, 15))
            if best[-side] is not None and side * price >= -best[-side]:
                price = -side * int(best[-side]) - side
            orders[order_id] = [side, price, size]
        elif kind < 5:
            order_id = int(rng.choice(list(orders)))
            if kind == 4:
                side = side if best[side] is not None else -side
                order_id = next(i for i, o in orders.items() if o[0] == side and side * o[1] == best[side])
            side, price, rest = (int(orders[order_id][0]), int(orders[order_id][1]), orders[order_id][2])
            size = rest if kind == 3 else min(size, rest)
            orders[order_id][2] = rest - size
            if orders[order_id][2] == 0:
                del orders[order_id]
        book = show_book(orders)
        is_seen = kind > 4 or price in book[:10] or price in book[20:30] or kind > 1
        if not is_seen or (kind in (2, 3) and _is_out_of_sight(book, side, price)):
            hidden_orders.add(order_id)
            continue
        scaled = [value * 0.01 if i // 10 % 2 == 0 else value * unit for i, value in enumerate(book)]
        rows.append([time_ns, order_id, kind, side, size * unit, price * 0.01, *scaled])
    table = pd.DataFrame(rows, columns=["time_ns", "order_id", "action", "side", "size", "price", *BOOK])
    whole = ["time_ns", "order_id", "action", "side"]
    return table.astype(dict.fromkeys(whole, np.int64)).assign(segment=segment, symbol="DRAWN")


def show_book(orders: dict[int, list[float]]) -> list[float]:
    """Return ten levels of each side, in the order of columns 0 to 39."""
    shown = []
    for side in (-1, 1):
        levels = dict[float, float]()
        for own, price, size in orders.values():
            if own == side:
                levels[price] = levels.get(price, 0) + size
        best = sorted(levels, key=lambda price: -side * price)[:10]
        shown += [*best, *[0] * (10 - len(best)), *[levels[price] for price in best], *[0] * (10 - len(best))]
    return shown


def _is_out_of_sight(book: list[float], side: int, price: float) -> bool:
    """Return whether a price lies beyond ten visible levels of its side."""
    worst = book[9] if side < 0 else book[29]
    return worst > 0 and side * price < side * worst
