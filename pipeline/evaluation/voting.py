"""The voting ensemble: its members, their weights, and the weighted sum of their target positions.

An entry of `models.ensembles` in params.yaml is not fitted: it combines what models of other families predict.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from annotated_types import MinLen
from pydantic import AfterValidator, NonNegativeFloat, PositiveInt
from pydantic_core import PydanticCustomError

from pipeline import artifacts, config
from pipeline.targets import Output

FAMILY = "ensembles"  # of params' `models`
TUNED = "tuned"  # a family whose models name that of their plugin
PLUGINS = ("voting", "stacking", "best_member")  # of all but the first the weights are fitted, see `stacking`
ENSEMBLES = artifacts.TRAINED / FAMILY  # the stage `combine` writes a folder for each ensemble
OUT_OF_SAMPLE, IN_SAMPLE = "oos.parquet", "in_sample.parquet"  # there
OF_FITTED_MODELS = ("columns", "include_symbols", "exclude_neutrals")  # keys of a block that an ensemble cannot have


def check_distinct(names: list[str]) -> list[str]:
    """Return the names; PydanticCustomError where one of them stands twice."""
    if len(set(names)) < len(names):
        raise PydanticCustomError("distinct", "a list that names each once")
    return names


Weights = Annotated[dict[str, NonNegativeFloat], MinLen(1)]
Members = Annotated[list[str], MinLen(1), AfterValidator(check_distinct)]


@dataclass(frozen=True)
class Member:
    """A model whose target positions an ensemble sums."""

    name: str
    weight: float  # the weights of all members have sum 1
    target: str
    window: int  # bars of one input; 1 where it sees one bar
    symbols: tuple[str, ...] | None  # that it predicts; None: all of the dataset


@dataclass(frozen=True)
class Ensemble:
    """The members of a voting ensemble, in the order in which their positions are summed."""

    members: tuple[Member, ...]
    left_out: tuple[str, ...]  # families of `weights` without a member, each with its reason
    rank_quantiles: int | None = None  # numbers among which a score is ranked; None: positions are summed

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each member by its name."""
        return {member.name: member.weight for member in self.members}

    def replace_weights(self, weights: np.ndarray) -> "Ensemble":
        """Return the ensemble with other weights (M,) of its members."""
        pairs = zip(self.members, weights.tolist(), strict=True)
        return replace(self, members=tuple(replace(member, weight=weight) for member, weight in pairs))


def combine_targets(targets: np.ndarray, is_full: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return (n,) float64 target positions in [-1, 1]: the weighted sums of the members' targets, clipped.

    A member counts 0 where its window is not full. The sum starts at 0.0 and adds one member after another, so that a
    streaming deployment gets the same bits.

    >>> is_full = np.array([[True, True], [True, False]])
    >>> combine_targets(np.array([[1.0, -0.5], [0.5, 1.0]]), is_full, np.array([0.6, 0.4]))
    array([0.4, 0.3])

    Args:
        targets: (n, M) target positions of M members; any value, such as NaN, where a member does not count.
        is_full: (n, M) bool, whether a member counts.
        weights: (M,) float64.
    """
    total = np.zeros(len(targets))
    for member, weight in enumerate(weights):
        total += weight * np.where(is_full[:, member], targets[:, member], 0.0)
    return np.asarray(total.clip(-1.0, 1.0))


def count_rows_so_far(segment: np.ndarray) -> np.ndarray:
    """Return (N,) int64 the rows of each row's segment up to it, itself included; rows are grouped by `segment` (N,).

    >>> count_rows_so_far(np.array([4, 4, 4, 7, 7]))
    array([1, 2, 3, 1, 2])
    """
    begins = np.flatnonzero(np.diff(segment, prepend=segment[:1] - 1))
    return np.asarray(np.arange(len(segment)) - np.repeat(begins, np.diff(begins, append=len(segment))) + 1)


def resolve_weights(params: config.Block, model: str, outputs: Mapping[str, Output]) -> Ensemble:
    """Return the members of the entry `models.ensembles.<model>` with their weights, normalized to sum 1.

    A key of `weights` is a family, whose weight its enabled models of the dataset share equally, in the order of
    params, or `<family>.<model>`. A weight of 0 leaves its models out. `outputs` are those of the dataset's targets.

    Raises:
        ParamsError: a key or a value is not allowed, a named model has no score, or no member is left; names it.
    """
    entry = config.find_model(params, model)
    name, dataset = f"models.{FAMILY}.{model}", entry.block["dataset"]
    check_block(entry, outputs)
    given, rank_quantiles, owner = read_given(entry)
    shares: dict[tuple[str, str], float] = {}
    left_out = []
    for key, weight in given.items():
        found = find_members(params, key, outputs, dataset=dataset, owner=owner)
        if doubled := [member for family, member in found if (family, member) in shares]:
            raise config.ParamsError(f"{owner} names {doubled[0]} twice, the second time by {key}; name it once")
        if not found:
            left_out.append(f"{key} has no enabled model of {dataset} with a score")
        shares |= dict.fromkeys(found, weight / max(len(found), 1))
    total = sum(shares.values())
    if not total > 0:
        raise config.ParamsError(
            f"{owner}: none of {', '.join(given)} has both a weight above 0 and an enabled model of "
            f"{dataset} with a score; enable one, or disable the ensemble by -S '~{name}'"
        )
    members = [describe_member(params, *key, weight=share / total) for key, share in shares.items() if share > 0]
    return Ensemble(tuple(members), tuple(left_out), rank_quantiles)


def read_given(entry: config.ModelBlock) -> tuple[dict[str, float], int | None, str]:
    """Return the weights by family or `<family>.<model>` that an entry gives, the quantiles of ranks, and its key."""
    read, key = (read_weights, "weights") if entry.block["plugin"] == "voting" else (read_members, "members")
    owner = f"models.{FAMILY}.{entry.name}.hyperparameters"
    return *config.call_with(read, block=entry.block["hyperparameters"], name=owner), f"{owner}.{key}"


def read_weights(*, weights: Weights, rank_quantiles: PositiveInt | None = None) -> tuple[dict[str, float], int | None]:
    """Return the weights by family or `<family>.<model>`, and the quantiles of ranks: of a voting ensemble."""
    return dict(weights), rank_quantiles


def read_members(*, members: Members) -> tuple[dict[str, float], None]:
    """Return equal weights of the families and models that an ensemble fits weights of; it sums positions."""
    return dict.fromkeys(members, 1.0), None


def check_block(entry: config.ModelBlock, outputs: Mapping[str, Output]) -> None:
    """Raise ParamsError where an entry of the family is no ensemble that predicts positions."""
    family, block, name = entry
    owner = f"models.{family}.{name}"
    if family != FAMILY:
        raise config.ParamsError(f"{owner} is no ensemble; entries of models.{FAMILY} are")
    if (plugin := block["plugin"]) not in PLUGINS:
        known = ", ".join(PLUGINS)
        raise config.ParamsError(f"{owner}: unknown plugin {plugin!r} of family {FAMILY!r}; there are {known}")
    if foreign := [key for key in OF_FITTED_MODELS if key in block]:
        raise config.ParamsError(f"{owner} has {foreign[0]}, which is of models that are fitted; remove it")
    if (kind := outputs[block["target"]].kind) != "position":
        raise config.ParamsError(f"{owner}: its target {block['target']} asks for {kind}; choose one of kind position")


def find_members(
    params: config.Block, key: str, outputs: Mapping[str, Output], *, dataset: str, owner: str
) -> list[tuple[str, str]]:
    """Return the (family, model) that a key of `weights` names; none for a family without a model that is traded.

    Raises:
        ParamsError: there is no such family or enabled model, or a named model is of another dataset or has no score.
    """
    families = {family: models or {} for family, models in params["models"].items() if family != FAMILY}
    family, _, named = key.partition(".")
    if family not in families or (named and named not in families[family]):
        known = ", ".join([*families, *(f"{family}.{name}" for family, models in families.items() for name in models)])
        raise config.ParamsError(f"{owner} has {key!r}; allowed are the families and enabled models {known}")
    if not named:
        own = ((name, block) for name, block in families[family].items() if block["dataset"] == dataset)
        return list_named(params, key, [name for name, block in own if not outputs[block["target"]].no_score_reason])
    block = families[family][named]
    if block["dataset"] != dataset:
        raise config.ParamsError(f"{owner} has {key}, which is of dataset {block['dataset']}, not of {dataset}")
    if reason := outputs[block["target"]].no_score_reason:
        raise config.ParamsError(f"{owner} has {key}, which is not traded: {reason}; take it out")
    return list_named(params, key, [named])


def list_named(params: config.Block, key: str, traded: Collection[str]) -> list[tuple[str, str]]:
    """Return the (family, model) that a key of `weights` names: one model, or those of a family that are traded."""
    family, _, named = key.partition(".")
    return [(family, named)] if named else [(family, name) for name in params["models"][family] or {} if name in traded]


def describe_member(params: config.Block, family: str, name: str, *, weight: float) -> Member:
    """Return a member; a model without the hyperparameter `window`, its own or its family's, sees one bar.

    A composite sees the window of its primary model.
    """
    block = params["models"][family][name]
    section = params.get(block["plugin"].partition(".")[0] if family == TUNED else family) or {}
    own = section | block["hyperparameters"]
    window = own["primary"]["hyperparameters"].get("window", 1) if "primary" in own else own.get("window", 1)
    if not isinstance(window, int):
        raise config.ParamsError(
            f"models.{family}.{name}.hyperparameters.window is searched; a member of an ensemble needs a given one"
        )
    symbols = block.get("include_symbols")
    return Member(name, weight, block["target"], window, None if symbols is None else tuple(symbols))


def list_fitted(params: config.Block) -> Iterator[tuple[str, config.Block]]:
    """Yield the name and the block of every enabled model that is fitted: of all families but this one."""
    for family, models in params["models"].items():
        if family != FAMILY:
            yield from (models or {}).items()


def name_members(params: config.Block, model: str, *, traded: Collection[str]) -> list[str]:
    """Return the names of the members of an ensemble whose params are valid; `traded` are the models with a score."""
    given, _, _ = read_given(config.find_model(params, model))
    return [name for key, weight in given.items() if weight > 0 for _, name in list_named(params, key, traded)]


def check_is_fitted(model: str, *, section: str) -> None:
    """Raise ParamsError where a section of params names an ensemble as `<family>.<model>`."""
    if model.partition(".")[0] == FAMILY:
        raise config.ParamsError(
            f"{section} has {model}, an ensemble: it has neither a fit nor a graph of its own; name its members"
        )
