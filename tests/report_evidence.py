"""Small evidence that a report is made from, and a parser of its page."""

from html.parser import HTMLParser

import numpy as np
import pandas as pd

from pipeline.reporting.tear_sheet.evidence import Bars, Calibration, DatasetEvidence, Look, ModelEvidence

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
START_MS = 1_704_067_200_000  # 2024-01-01, a Monday
SETTINGS = {"rolling_days": 2, "tail_share": 0.05}
VOID = {"meta", "link", "br", "img", "input", "hr"}


class PageParser(HTMLParser):
    """Collects tags, attributes and texts, and checks that every tag is closed by its own end."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def parse(page: str) -> PageParser:
    parser = PageParser()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def make_details(net: np.ndarray) -> dict:
    metrics = dict.fromkeys(("sharpe_daily", "sharpe", "net_return", "max_drawdown", "ic"), 1.5)
    path = {
        "bars": len(net),
        "confusion": [[3, 1], [2, 4]],
        **metrics,
        "sortino": None,
        "undefined": {"sortino": "why"},
    }
    curve = {"values": [0.0, 2.0, 4.0], "net_return": [0.2, 0.1, None], "reason": None}
    return {
        "model": {"paths": [path, path]},
        "gates": {
            "stationarity": {"value": None, "limit": 0.5, "passes": None},
            "seeds": {"value": 1, "limit": 3, "passes": False},
        },
        "execution": {
            "charged_bps": 2.0,
            "break_even_bps": 3.0,
            "round_trips": 2,
            "by_cost": curve,
            "by_delay": curve,
            "by_capital": {"values": [], "net_return": [], "reason": "not measured"},
            "executability": {"is_executable": True, "reasons": []},
            "warnings": [],
        },
        "capacity": {
            "impact_coefficient": 1.0,
            **{"capitals": [1e3, 1e4, 1e5], "net_return": [0.2, 0.1, -0.1], "sharpe_daily": [4.0, 2.0, -1.0]},
            **{"profit_per_year": [2e3, 1e4, -1e5], "impact_bps": [1.0, 3.0, 10.0], "cut_share": [0.0, 0.1, 0.5]},
            **{"max_profit_capital": 9e3, "half_sharpe_capital": None, "reason": "no half_sharpe_capital: why"},
        },
        "fit_diagnoses": {"0": {"verdict": "healthy"}},
    }


def make_model(name: str = "<tree>", *, net: np.ndarray | None = None) -> ModelEvidence:
    """A model of two paths of 96 hours; its name needs escaping."""
    time_ms = START_MS + np.arange(96) * HOUR_MS
    if net is None:
        net = 0.01 * np.sin(np.arange(96.0) ** 2)
    trips = pd.DataFrame(
        {
            "symbol": "BTC",
            "side": [1, -1],
            "entry_time": [START_MS, START_MS + HOUR_MS],
            "exit_time": [START_MS + HOUR_MS, START_MS + 4 * HOUR_MS],
            "net": [0.001, -0.002],
            "adverse_excursion": [0.0, -0.003],
        }
    )
    fit = {
        "seed": 1,
        "split": "0",
        "rows": {"train": 50, "valid": 9},
        "iterations": 3,
        "best": {"iteration": 2, "valid_loss": 0.5},
    }
    history = {"seed": 1, "split": "0", "iteration": [1, 2, 3], "train_loss": [3.0, 2.0, 1.0], "valid_loss": 2.0}
    bins = np.array([0.1, 0.2, 0.3])
    finding = {"guard": "normalization", "severity": "ok", "message": "none"}
    return ModelEvidence(
        name=name,
        family="trees",
        target="return_5",
        time_ms=time_ms,
        paths=np.column_stack([net, np.zeros_like(net)]),
        median_path=0,
        bars_per_year=8766.0,
        round_trips=trips,
        headline={"ic": 0.1, "ic_minus_linear": -0.01, "reason": None},
        details=make_details(net),
        audit={"findings": [], "fits": [{"findings": [finding]}]},
        training={"fits": [fit], "importances": {"gain": {"a": 3.0, "b": 1.0}}},
        history=pd.DataFrame(history),
        calibration=Calibration({"up": (bins, bins, bins / 10)}, "probability"),
        class_names=("down", "up"),
    )


def make_bars(count: int = 96, *, step_ms: int = HOUR_MS) -> Bars:
    """Bars that rise and fall by turns, from the first bar of a model on."""
    close = 100.0 + np.arange(count) % 2
    opening = np.concatenate([[100.0], close[:-1]])
    return Bars(START_MS + np.arange(count) * step_ms, opening, close + 2.0, opening - 2.0, close)


def make_row(dsr: float | None) -> dict:
    names = "psr luck_dsr trial_variance expected_max_sharpe sharpe_per_bar min_track_record_bars observations"
    row = dict.fromkeys(names.split(), 0.5)
    ends = {"": 1.5, "_low": 0.5, "_high": 2.5}
    sharpes = {f"{kind}{end}": value for kind in ("sharpe", "sharpe_daily") for end, value in ends.items()}
    return {**row, **sharpes, "dsr": dsr, "dsr_clusters": dsr, "trials": 4, "path_sharpes": [1.0, 2.0]}


def make_signal() -> dict:
    gate = {"signal_ic": {"value": 0.1, "limit": 0.05, "passes": True}}
    names = ("ic", "ic_error", "ic_p_adjusted", "rank_ic", "ic_sign_share", "turnover")
    return {**dict.fromkeys(names, 0.1), "gates": gate}


def make_evidence(*models: ModelEvidence, dsr: float | None = 0.99, source: str = "simulated") -> DatasetEvidence:
    models = models or (make_model(),)
    ok = {"guard": "truncation", "severity": "ok", "message": "44 columns & <all> hold"}
    groups = [{"first_ms": START_MS + i * DAY_MS, "last_ms": START_MS + (i + 1) * DAY_MS} for i in range(3)]
    split = {
        **dict.fromkeys(("rows", "development", "holdout", "purged_and_embargoed_before_holdout"), 9),
        "method": "cpcv",
        "n_splits": 3,
        "n_paths": 2,
        "embargo_bars": 5,
        "embargo_reason": "why",
        "groups": groups,
        "splits": {"tested_groups": [[0, 1], [0, 2], [1, 2]]},
        "findings": [ok],
    }
    return DatasetEvidence(
        dataset="made_up",
        source=source,
        is_simulated=source == "simulated",
        ingest={
            "symbols": {"BTC": {"rows": 96, "first_ms": START_MS, "last_ms": START_MS, "missing_bars": 2}},
            "gaps": {"count": 1, "list": [{"symbol": "BTC", "start_ms": START_MS, "bars": 2}]},
        },
        label={"return_5": {"rows": 90, "lost": {"horizon": 6}, "mean_length_ms": 3.6e6, "y": {"mean": 0.0}}},
        split=split,
        guard={"findings": [ok]},
        canary={"canaries": 2, "caught": 2, "false_alarms": 0, "outcomes": {"shifted": {"caught": True}}},
        liquidity={"reason": "rows are not bars"},
        signals={"return_5": {"features": {"a": make_signal(), "b": make_signal()}}},
        sensitivity={"reason": "no model"},
        headline={"pbo": 0.1, "pbo_lowest": 0.1, "pbo_highest": 0.2},
        compare={
            "leaderboard": {model.name: make_row(dsr) for model in models},
            "trials": 4,
            "effective_trials": {"clusters": 2.0},
            "path_pbo": [0.1, 0.2],
            "ledger_pbo": 0.15,
            "reason": None,
            "superiority": {"spa": 0.01, "reality_check": 0.02, "days": 4, "trials": 4},
            "pairs": [],
            "block_bars": 3.0,
            "findings": [ok],
        },
        models=models,
        bars={"BTC": make_bars()},
        looks=[Look("<tree>", "return_5", "0123", START_MS // DAY_MS, (0.5, None, -0.5), 2.5)],
    )
