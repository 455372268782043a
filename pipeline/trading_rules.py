"""The rules by which scores are traded, and the costs at the venue of a dataset's source, from params.yaml."""

from dataclasses import asdict, dataclass
from typing import Annotated, Any

from annotated_types import Gt, Interval
from pydantic import NonNegativeFloat

from pipeline import config

Delay = Annotated[int, Interval(ge=0, le=10_000)]
AnnualRate = Annotated[float, Interval(ge=0, lt=1)]
Band = Annotated[float, Interval(ge=0, lt=1)]
Capital = Annotated[float, Gt(0)]
Participation = Annotated[float, Interval(gt=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class Costs:
    """The costs of an ordinary account at a venue."""

    fee_bps: NonNegativeFloat  # of the value traded, each side
    slippage_bps: NonNegativeFloat  # of the value traded: by how much a fill is worse than the open
    borrow_rate: AnnualRate  # per year, of the value that is short: interest on a loan, or funding


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The rules by which scores become positions and orders."""

    delay_bars: Delay  # bars between a decision and its fill, beyond the next open
    full_position_std: Annotated[float, Gt(0)]  # a score of this many standard deviations is a full position
    no_trade_band: Band  # the position changes to targets further than this from it
    long_only: bool  # a negative target is flat
    capital: Capital  # in the quote currency, the same at each bar
    max_participation: Participation  # share of a bar's quote volume that an order may take


def read_rules(params: config.Block) -> Rules:
    """Return the section `trading`."""
    return config.call_with(Rules, block=config.look_up(params, "trading"), name="trading")


def read_costs(params: config.Block, dataset: str) -> Costs:
    """Return the section `costs.<source>` of the source that a dataset reads."""
    source = config.look_up(params, f"datasets.{dataset}.source")
    known, name = config.look_up(params, "costs"), f"costs.{source}"
    if source not in known:
        raise config.ParamsError(
            f"there is no {name} for the source of datasets.{dataset}; costs has {', '.join(known)}: add a section "
            f"{source} with {', '.join(config.list_keys(Costs))}"
        )
    return config.call_with(Costs, block=known[source], name=name)


def read_order_delay(params: config.Block) -> int:
    """Return `trading.delay_bars`: the label of a position begins at its fill."""
    return read_rules(params).delay_bars


def list_terms(rules: Rules, costs: Costs) -> dict[str, Any]:
    """Return the keyword arguments of `trading.make_terms`."""
    terms: dict[str, Any] = asdict(rules) | asdict(costs)
    return {name: value for name, value in terms.items() if name not in ("delay_bars", "full_position_std")}
