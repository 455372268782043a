"""From a closed bar to a signal: features, windows, graphs, ensemble, no-trade band and positions of a bundle.

`python -m pipeline.deployment.hot_path --bundle FOLDER --bars FILE.parquet` writes the signals as JSON lines.
"""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from pipeline.deployment import contract
from pipeline.deployment.cache_warming import CacheWarmer
from pipeline.deployment.contract import Contract, ModelPart
from pipeline.deployment.lane import Arrays, Bind, Lane
from pipeline.deployment.merged_graph import bind_graphs, read_shapes
from pipeline.deployment.signals import Signal
from pipeline.deployment.together import Bar, Bars, Together, read_time, refuse_alone, take_part
from pipeline.market.bar_reader import describe_time
from pipeline.models.onnx_session import load_self_contained

log = logging.getLogger(__name__)

LARGEST_WEIGHT = 10.0  # of a position that is given: one beyond is a number of units, or of money
SHORTEST_MS = 1_000  # of the bars that a feed has; after a halt an exchange may close one sooner
FINITE = ("memory", "inputs", "levels", "moves", "market_moves")  # arrays of a state without NaN


class HotPath:
    """The signals of a bundle, bar by bar, for each of its symbols; with columns among symbols, for all at once.

    Not for several threads at once. `counts` are the bars taken, the signals, the bars that were missing, and the
    positions that were given, of all symbols.
    """

    def __init__(self, bundle: Contract, bind: Bind, *, digest: str = "") -> None:
        """Serve a contract by models that `bind` binds to inputs and predictions; `load` reads all from a folder."""
        self.contract, self._bind, self._digest = bundle, bind, digest
        self._warmer: CacheWarmer | None = None
        self._has_equal_bars = bundle.bars.calendar.get("exchange") is None  # else the last of a session may be shorter
        self.lanes = {symbol: Lane(bundle, symbol, bind) for symbol in bundle.bars.symbols}
        self._together = Together(bundle, self.lanes) if bundle.cross_section else None
        self.streams = {symbol: lane.stream for symbol, lane in self.lanes.items()}
        self.streams |= self._together.streams if self._together else {}  # of symbols that no model predicts too
        self.counts = {"bars": 0, "signals": 0, "missing_bars": 0, "given_positions": 0}

    @classmethod
    def load(cls, folder: str | Path) -> "HotPath":
        """Return the hot path of a bundle, once the digests of its files are verified.

        Raises:
            ArtifactError: a file is missing or damaged.
            ValueError: the contract does not fit the graphs, the certificate or this version of the code.
        """
        folder = Path(folder)
        bundle, graphs = open_graphs(folder)
        if (code := contract.hash_code()) != bundle.sha256.code:
            log.warning(
                "%s was made by other code (%.12s, here %.12s): `python -m pipeline.deployment.verify` says whether "
                "its predictions are the same",
                folder,
                bundle.sha256.code,
                code,
            )
        try:
            return cls(bundle, bind_graphs(graphs), digest=contract.hash_contract(folder))
        except ValueError as error:  # of a section of the contract that params.yaml has too
            raise ValueError(f"{folder / contract.CONTRACT}: {str(error).removeprefix('params.yaml: ')}") from error

    def update(self, bar: Bar, *, now_ms: float | None = None) -> Signal | None:
        """Return the signal now that `bar` has closed; None while the features of its segment warm up.

        A bar is a mapping with the kline fields and `symbol`. Missing bars end a segment: what is held is held until
        the next fill, which closes it. `now_ms` is the time of receipt: a bar that has not closed by then is refused,
        see `Stream.update`; without it a bar of the future is taken, and all before it are then late. Where a bar has a
        `position`, it is what the account of the signal really holds at its close, see `set_position`.

        Raises:
            ValueError: the bar is invalid, late, repeated, not closed, or of another symbol, or the bundle has columns
                among symbols; nothing has changed.
        """
        refuse_alone(self.contract)
        lane, position = self.lanes[self._find_symbol(bar, self.lanes)], bar.get("position")
        if position is not None:
            check_position(position)
            lane.find_account(self.contract.signal)
        has_predicted = lane.take(bar, now_ms=now_ms, decides=True, position=position)
        self._count(lane.symbol, has_position=position is not None, has_predicted=has_predicted)
        return lane.describe() if has_predicted else None

    def observe(self, bar: Bar) -> None:
        """Take a past bar into features and windows without a decision: history before the first live bar.

        Raises:
            ValueError: as `update`.
        """
        refuse_alone(self.contract)
        symbol = self._find_symbol(bar, self.lanes)
        self.lanes[symbol].take(bar, now_ms=None, decides=False)
        self._count(symbol)

    def update_together(self, bars: Iterable[Bar], *, now_ms: float | None = None) -> dict[str, Signal]:
        """Return the signals by symbol now that the bars of several symbols with one open time have closed.

        Columns among symbols are those of these bars: call it once all symbols of `contract.cross_section` have theirs,
        or a later bar has come. Symbols that warm up, or that no model predicts, have no signal. All else is as in
        `update`, also for a bundle without such columns.

        Raises:
            ValueError: one of the bars is refused as in `update`, its open time is another one, or not after that of
                the bars before; nothing has changed.
        """
        return self._take_together(tuple(bars), now_ms=now_ms, decides=True)

    def observe_together(self, bars: Iterable[Bar]) -> None:
        """Take past bars with one open time as `observe` takes one; ValueError as `update_together`."""
        self._take_together(tuple(bars), now_ms=None, decides=False)

    def check(self, bar: Bar, *, now_ms: float | None = None) -> int:
        """Return what a bar changes, see `StreamClock.find_change`, and change nothing; ValueError as `update`."""
        stream = self.streams[self._find_symbol(bar, self.streams)]
        if (position := bar.get("position")) is not None:
            check_position(position)
            self.lanes[self._find_symbol(bar, self.lanes)].find_account(self.contract.signal)
        change = stream.check(bar, now_ms=now_ms)
        if self._together:
            self._together.check_time(bar)
        return change

    def _take_together(self, bars: Sequence[Bar], *, now_ms: float | None, decides: bool) -> dict[str, Signal]:
        changes = [self.check(bar, now_ms=now_ms) for bar in bars]
        by_symbol, signals = {str(bar["symbol"]): bar for bar in bars}, {}
        if not bars or len(by_symbol) < len(bars) or len({read_time(bar) for bar in bars}) > 1:
            found = ", ".join(f"{bar['symbol']} at {bar['open_time']}" for bar in bars) or "none"
            raise ValueError(f"bars: they are {found:.200}; allowed is one bar of each symbol, all with one open_time")
        x = self._compute_columns(by_symbol, dict(zip(by_symbol, changes, strict=True)))
        for symbol, bar in by_symbol.items():
            position, has_predicted = bar.get("position") if decides else None, False
            if symbol in self.lanes:
                has_predicted = self.lanes[symbol].decide(x[symbol], decides=decides, position=position)
            if has_predicted:
                signals[symbol] = self.lanes[symbol].describe()
            self._count(symbol, has_position=position is not None, has_predicted=has_predicted)
        return signals

    def _compute_columns(self, bars: Bars, changes: Mapping[str, int]) -> Mapping[str, np.ndarray | None]:
        """Return the columns (F,) by symbol of bars that are checked, None while they warm up."""
        if self._together:
            return self._together.take(bars, changes)
        return {symbol: self.streams[symbol].take(bar, changes[symbol]) for symbol, bar in bars.items()}

    def _count(self, symbol: str, *, has_position: bool = False, has_predicted: bool = False) -> None:
        """Count the last bar of a symbol."""
        self.counts["bars"] += 1
        self.counts["missing_bars"] += self.streams[symbol].clock.missing_bars
        self.counts["given_positions"] += has_position
        self.counts["signals"] += has_predicted

    def set_position(self, symbol: str, position: float, *, model: str | None = None) -> None:
        """Set what is really held at the close of the next bar of a symbol, since real fills differ from assumed ones.

        A weight of the symbol's capital: from -1, all of it short, to 1. It counts what has been filled by that close.
        The decision there starts from it, and from then on the account assumes fills at the open again. The account is
        that of `model`, or of the signal. A second call before that bar replaces the first; a bar's own `position`
        replaces both.

        Raises:
            ValueError: the symbol or the model has no account, or the position is no weight; nothing has changed.
        """
        if symbol not in self.lanes:
            raise ValueError(f"set_position: symbol is {symbol!r}; this bundle is for {', '.join(self.lanes)}")
        check_position(position)
        self.lanes[symbol].set_position(position, name=self.contract.signal if model is None else model)
        self.counts["given_positions"] += 1

    def warm_caches(self) -> None:
        """Process a made-up bar beside the state, of which nothing changes: the next update then takes less time.

        A process that waits loses the processor's caches to others. Call it in a loop until shortly before a bar is
        due; the first call takes as long as the warm-up of the features.
        """
        if self._warmer is None:
            self._warmer = CacheWarmer(self.contract, self._bind)
        self._warmer.run()

    def state(self) -> Arrays:
        """Return a copy of all that later signals depend on, as arrays: `np.savez` stores them."""
        lanes = {f"{symbol}/{key}": value for symbol, lane in self.lanes.items() for key, value in lane.state().items()}
        lanes |= self._together.state() if self._together else {}
        return lanes | {"contract": np.array([self._digest]), "counts": np.array(list(self.counts.values()))}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Resume from the `state` of a hot path of the same bundle: the signals go on bit for bit.

        Raises:
            ValueError: it is of another bundle, lacks something, or has arrays of other types or shapes, or NaN.
        """
        has_absent = bool(self.contract.features.get("absent_fields"))
        state = check_state(state, self.state(), allows_nan=has_absent)
        for symbol, lane in self.lanes.items():
            lane.restore(take_part(state, f"{symbol}/"))
        if self._together:
            self._together.restore(state)
        self.counts = dict(zip(self.counts, state["counts"].tolist(), strict=True))

    def _find_symbol(self, bar: Bar, known: Collection[str]) -> str:
        """Return the symbol of a bar, one of `known`; ValueError where it is another one, or the bar is none."""
        try:
            symbol, has_segment = bar.get("symbol"), "segment" in bar
        except (AttributeError, TypeError):
            raise ValueError(f"bar is {bar!r:.40} ({type(bar).__name__}); allowed is a mapping") from None
        if has_segment:
            raise ValueError("bar: it has a segment; leave it out: the hot path finds missing bars itself")
        if not isinstance(symbol, str) or symbol not in known:
            found = "it has no symbol" if symbol is None else f"symbol is {symbol!r}"
            raise ValueError(f"bar: {found}; this bundle is for {', '.join(known)}")
        if self._has_equal_bars:
            check_length(bar, interval_ms=self.contract.bars.interval_ms)
        return symbol


def check_length(bar: Mapping[str, Any], *, interval_ms: int) -> None:
    """Raise ValueError where `close_time` shows that a bar is of a shorter interval, of which several make one.

    Another length is that of a bar that an exchange has closed early, before a halt. `Stream.update` refuses a
    longer bar, and a time that is not numeric.
    """
    try:
        opened, closed = bar["open_time"], bar["close_time"]
        length = closed - opened if type(closed) is int and type(opened) is int else float(closed) - float(opened)
    except (KeyError, TypeError, ValueError, OverflowError):
        return
    if length >= interval_ms - 1 or not length >= SHORTEST_MS - 1:
        return
    for found in (length + 1, length):  # a bar may close as the next one opens
        if interval_ms % found == 0:
            raise ValueError(
                f"bar at open_time {describe_time(opened)}: it is {found:.0f} ms long, the bundle's bars "
                f"{interval_ms}: feed bars of that interval"
            )


def check_position(position: object) -> None:
    """Raise ValueError where a position is no weight; one that has drifted beyond -1 or 1 is allowed."""
    is_number = isinstance(position, (int, float, np.integer, np.floating)) and not isinstance(position, bool)
    if not is_number or not abs(position) <= LARGEST_WEIGHT:  # type: ignore[arg-type]
        found = position.item() if isinstance(position, np.generic) else position
        raise ValueError(
            f"position is {found!r}; allowed is a weight of the symbol's capital, from -1 to 1 or somewhat beyond: "
            "value held / capital"
        )


def check_state(state: Mapping[str, np.ndarray], expected: Arrays, *, allows_nan: bool) -> Arrays:
    """Return the arrays of a state, which must have the keys, shapes and types of `expected`, the state so far.

    Raises:
        ValueError: it is of another bundle, or an array is missing, unknown, of another type or shape, or not finite.
    """
    remedy = "restore what `state` of a HotPath of this bundle returned"
    if not isinstance(state, Mapping):
        raise ValueError(f"state is {type(state).__name__}; allowed is a mapping: {remedy}")
    digest = state.get("contract")
    if not isinstance(digest, np.ndarray) or digest.tolist() != expected["contract"].tolist():
        raise ValueError("state: it is of another bundle; restore it where it was made, or start anew")
    if missing := [name for name in expected if name not in state]:
        raise ValueError(f"state: {', '.join(missing)} missing; {remedy}")
    if unknown := [name for name in state if name not in expected]:
        raise ValueError(f"state: {', '.join(map(str, unknown))} unknown; {remedy}")
    found = {name: state[name] for name in expected}
    for name, array in found.items():
        own = expected[name]
        is_alike = isinstance(array, np.ndarray) and array.shape == own.shape
        if not is_alike or not (array.dtype == own.dtype or array.dtype.kind == own.dtype.kind == "U"):
            given = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
            raise ValueError(f"state: {name} is {given}; allowed is {own.dtype} {own.shape}: {remedy}")
        is_bad = np.isinf if allows_nan else lambda values: ~np.isfinite(values)
        if name.rpartition("/")[2] in FINITE and is_bad(array).any():
            raise ValueError(f"state: {name} has numbers that are not finite; {remedy}")
    return found


def open_graphs(folder: Path) -> tuple[Contract, dict[str, onnx.ModelProto]]:
    """Return the contract of a bundle, and each of its graphs; see `HotPath.load` for the errors."""
    bundle = contract.read_contract(folder)
    contract.check_certificate(folder)
    graphs = {name: load_self_contained(folder / model.graph) for name, model in bundle.models.items()}
    for name, graph in graphs.items():
        _check_graph(name, bundle.models[name], graph)
    return bundle, graphs


def _check_graph(name: str, model: ModelPart, graph: onnx.ModelProto) -> None:
    """Raise ValueError where a graph has another input or prediction than its contract says."""
    width = len(model.columns) + len(model.account_columns)
    expected = [[width] if model.window is None else [model.window, width], [len(model.output.names)]]
    if (found := read_shapes(graph)) != expected:
        raise ValueError(
            f"{model.graph}: its input and prediction are {found}, models.{name} says {expected}; make the bundle again"
        )


if __name__ == "__main__":  # a bundle does not depend on the code that feeds it, hence no import
    import_module("pipeline.deployment.feeds.command").main()
