"""The 98 columns of an order book in plain Python, from the formulas of their contract: slow; no function is shared."""

import math
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

EPS = 1e-8


class SlowOrderBook:
    """All that has happened in a segment; every column is computed from it anew after each event."""

    def __init__(self, *, windows=(5, 500, 5000), tick=0.01, ready=100):
        self.windows, self.tick, self.ready = windows, tick, ready
        self.events, self.orders, self.completed = [], {}, []
        self.before = {}  # (side, price) of levels with known orders: the size of orders from before the segment
        self.book = self.time = self.microprice = None
        self.changes = self.crossed = 0

    def update(self, time, order_id, action, side, size, price, book):
        """Return the 98 columns after an event; `book` has columns 0 to 39."""
        if action <= 5:
            self.events.append((time, action, side, size))
            self.follow(time, order_id, action, side, size, price)
        for own, prices, sizes in ((-1, book[:10], book[10:20]), (1, book[20:30], book[30:])):
            self.look_at(own, {p: s for p, s in zip(prices, sizes, strict=True) if p > 0})
        columns = [*book, *self.describe_book(book), *self.describe_flow(), *self.describe_sizes()]
        columns += self.describe_queues(book, time)
        columns += self.describe_signals(columns, book) + self.describe_gates(book, time)
        self.book, self.time = list(book), time
        return columns

    def follow(self, time, order_id, action, side, size, price):
        order = self.orders.get(order_id)
        if action == 1:
            if order:
                self.drop(order_id)
            self.orders[order_id] = {"side": side, "price": price, "size": size, "left": size, "added": time}
            self.orders[order_id] |= {"filled": 0.0, "first_fill": None, "changes": 0}
        elif action <= 4 and order:
            taken = min(size, order["left"])
            if action == 2:
                order["changes"] += 1
            if action == 4:
                order["filled"] += taken
                order["first_fill"] = time if order["first_fill"] is None else order["first_fill"]
            order["left"] -= taken
            if action == 3 or order["left"] <= 1e-9 * order["size"]:
                self.completed.append((time - order["added"], order["filled"] / order["size"], order["changes"]))
                self.drop(order_id)

    def drop(self, order_id):
        order = self.orders.pop(order_id)
        if not any((o["side"], o["price"]) == (order["side"], order["price"]) for o in self.orders.values()):
            self.before.pop((order["side"], order["price"]), None)

    def look_at(self, side, levels):
        """Compare the known orders of a side with the sizes by price that the book shows."""
        worst = min((side * price for price in levels), default=-math.inf)
        if len(levels) < 10:
            worst = -math.inf
        for price in {o["price"] for o in self.orders.values() if o["side"] == side}:
            if side * price < worst:
                continue
            queue = [i for i, o in self.orders.items() if (o["side"], o["price"]) == (side, price)]
            if price in levels:
                rest = levels[price] - sum(self.orders[i]["left"] for i in queue)
                self.before[side, price] = rest if rest > 1e-9 * levels[price] else 0.0
            else:
                for i in queue:
                    self.drop(i)

    def describe_book(self, book):
        ask, bid, ask_size, bid_size = book[0], book[20], book[10], book[30]
        bids, asks = sum(book[30:]), sum(book[10:20])
        imbalance = (bids - asks) / (bids + asks + EPS)
        if ask <= 0 or bid <= 0:
            return [0.0, 0.0, 0.0, bids, asks, imbalance, 0.0, 0.0]
        mid = (ask + bid) / 2
        micro = (bid * ask_size + ask * bid_size) / (bid_size + ask_size)
        return [mid, ask - bid, (ask - bid) / mid * 1e4, bids, asks, imbalance, micro, abs(mid - micro)]

    def last(self, window):
        return self.events[-window:]

    def medium(self):
        return self.last(self.windows[1])

    def seconds(self):
        events = self.medium()
        return max((events[-1][0] - events[0][0]) / 1e9, 0.001) if events else 0.001

    def describe_flow(self):
        events, seconds = self.medium(), self.seconds()
        counts = [count(events, kinds, side) for kinds in ((1,), (2, 3), (4, 5)) for side in (1, -1)]
        add_bid, add_ask, cancel_bid, cancel_ask, trade_bid, trade_ask = counts
        adds = add_bid + add_ask
        ratio = net_adds(self.last(self.windows[0])) / max(abs(net_adds(self.last(self.windows[2]))), 0.01)
        return [
            *[n / seconds for n in counts],
            (add_bid - add_ask) / (adds + EPS),
            (cancel_ask - cancel_bid) / (cancel_bid + cancel_ask + EPS),
            (trade_ask - trade_bid) / (trade_bid + trade_ask + EPS),
            (trade_bid + trade_ask) / (adds + EPS),
            self.deviation_of_flow(events),
            max(-10.0, min(10.0, ratio)),
        ]

    def deviation_of_flow(self, events):
        if len(events) < 50:
            return 0.0
        width = len(events) // 10
        parts = [events[i * width : (i + 1) * width if i < 9 else None] for i in range(10)]
        flows = []
        for part in parts:
            bid, ask = count(part, (1,), 1), count(part, (1,), -1)
            flows.append((bid - ask) / (bid + ask) if bid + ask else 0.0)
        return deviation(flows)

    def describe_sizes(self):
        sizes = [size for *_, size in self.medium()]
        if not sizes:
            return [0.0] * 8
        ranked, n, total = sorted(sizes), len(sizes), math.fsum(sizes)
        mean, std = total / n, deviation(sizes)
        is_flat = std <= 1e-9 * mean
        return [
            *[ranked[int(n * share / 100)] for share in (25, 50, 75, 90)],
            0.0 if is_flat else (sizes[-1] - mean) / (std + EPS),
            sum(size > 3 * mean for size in sizes) / n,
            0.0 if is_flat or n < 3 else math.fsum(((size - mean) / std) ** 3 for size in sizes) / n,
            math.fsum((size / total) ** 2 for size in sizes) if total else 0.0,
        ]

    def describe_queues(self, book, now):
        """Return columns 68 to 83."""
        orders, queues = list(self.orders.values()), {}
        position = ahead = 0.0
        for order in orders:
            level = order["side"], order["price"]
            others = queues.setdefault(level, [])
            position += len(others)
            ahead += sum(others) + self.before.get(level, 0.0)
            others.append(order["left"])
        n = max(len(orders), 1)
        bids, asks = [p for p in book[20:30] if p > 0], [p for p in book[:10] if p > 0]
        total = sum(book[10:20]) + sum(book[30:])
        concentration = sum((s / total) ** 2 for s in [*book[10:20], *book[30:]]) if total else 0.0
        last = self.completed[-1000:]
        changes = sum(c for *_, c in last) / max(len(last), 1)
        ratio = sum(r for _, r, _ in last) / max(len(last), 1)
        filling = [o["first_fill"] - o["added"] for o in orders if o["first_fill"] is not None]
        events = self.medium()
        adds, cancels = (count(events, kinds, 1) + count(events, kinds, -1) for kinds in ((1,), (2, 3)))
        return [
            position / n,
            ahead / n,
            len(orders) / max(len(bids) + len(asks), 1),
            concentration,
            (bids[0] - bids[-1]) / self.tick if bids else 0.0,
            (asks[-1] - asks[0]) / self.tick if asks else 0.0,
            *self.describe_large(events),
            changes,
            ratio * min(changes / 10, 1),
            sum((now - o["added"]) / 1e9 for o in orders) / n,
            median([lifetime / 1e9 for lifetime, *_ in last]),
            ratio,
            sum(filling) / len(filling) / 1e9 if filling else 0.0,
            min(cancels / (adds + EPS), 10.0),
            len(orders),
        ]

    def describe_large(self, events):
        ranked = sorted(size for *_, size in events)
        limit = ranked[len(ranked) * 9 // 10] if ranked else 0.0
        large = [(side, size) for _, _, side, size in events if size > limit]
        bids, asks = (sum(size for own, size in large if own == side) for side in (1, -1))
        return [len(large) / self.seconds(), (bids - asks) / (bids + asks + EPS)]

    def describe_signals(self, columns, book):
        """Return columns 84 to 91."""
        flow, mid, micro = self.order_flow(book), columns[40], columns[46]
        change = (micro - self.microprice) / mid * 1e4 if self.microprice and micro else 0.0
        if 0 < book[20] < book[0]:
            self.microprice = micro
        bids, asks = columns[43], columns[44]
        return [
            flow,
            flow / (bids + asks + EPS),
            columns[53] - columns[52],
            change,
            columns[56],
            columns[55],
            1 - columns[71] * (columns[72] + columns[73] + EPS) / 100,
            (bids - asks) / (bids + asks + EPS),
        ]

    def order_flow(self, book):
        """Cont, Kukanov & Stoikov 2014: what demand at the best bid gained, less what supply at the best ask gained."""
        if not self.book or min(book[0], book[20], self.book[0], self.book[20]) <= 0:
            return 0.0
        now, was = [[b[0], b[10], b[20], b[30]] for b in (book, self.book)]
        self.changes += now != was
        if book[20] > self.book[20]:
            demand = book[30]
        elif book[20] < self.book[20]:
            demand = -self.book[30]
        else:
            demand = book[30] - self.book[30]
        if book[0] < self.book[0]:
            supply = book[10]
        elif book[0] > self.book[0]:
            supply = -self.book[10]
        else:
            supply = book[10] - self.book[10]
        return demand - supply

    def describe_gates(self, book, now):
        """Return columns 92 to 97."""
        is_valid = 0 < book[20] < book[0]
        self.crossed += 0 < book[0] <= book[20]
        local = datetime.fromtimestamp(now // 10**9, UTC).astimezone(ZoneInfo("America/New_York"))
        minute = 60 * local.hour + local.minute
        regime = 0
        for start, part in ((570, 1), (600, 2), (720, 3), (930, 4), (960, 0)):
            regime = part if minute >= start else regime
        gap = (now - self.time) / 1e9 if self.time is not None else 0.0
        crossed, self.crossed = self.crossed, 0 if is_valid else self.crossed
        return [float(is_valid), regime, float(self.changes >= self.ready), gap, crossed, 2.2]


def count(events, kinds, side):
    return sum(action in kinds and own == side for _, action, own, _ in events)


def net_adds(events):
    bid, ask = count(events, (1,), 1), count(events, (1,), -1)
    return (bid - ask) / (bid + ask + EPS)


def deviation(values):
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))


def median(values):
    ranked, n = sorted(values), len(values)
    if n == 0:
        return 0.0
    return ranked[n // 2] if n % 2 else (ranked[n // 2 - 1] + ranked[n // 2]) / 2
