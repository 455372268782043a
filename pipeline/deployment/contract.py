"""The contract of a bundle: what goes into its graphs, what comes out, and how that becomes a position.

`contract.json` of a bundle has these fields, `contract.schema.json` says so as a JSON schema.
"""

import hashlib
import json
import re
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Gt, Lt, MinLen
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline import artifacts, digests, remedies
from pipeline.digests import ArtifactError
from pipeline.targets import Kind, Output
from pipeline.trading import Terms, make_terms

SCHEMA_VERSION = "1.0"  # the first number changes where an older reader would go wrong
RANKS_VERSION = "2.0"  # with `ensemble.references`: a reader of 1 that ignores them would sum positions
TOGETHER_VERSION = "3.0"  # with `cross_section`: a reader of 2 would take the bars of each symbol by themselves
VERSIONS = (SCHEMA_VERSION, RANKS_VERSION, TOGETHER_VERSION)
BUNDLES = artifacts.TRAINED / "bundles"  # one folder for each dataset
CONTRACT, SCHEMA = "contract.json", "contract.schema.json"
GOLDEN, GOLDEN_TEXT, CERTIFICATE = "golden.parquet", "golden.csv", "certificate.json"
PACKAGES = ("numba", "numpy", "onnxruntime")  # whose versions can change a prediction
ROOT = Path(__file__).resolve().parents[1]  # of the package
FIRST = "deployment/hot_path.py"  # whose code, with all that it imports, makes the predictions
IMPORT = re.compile(r"(?m)^\s*from (pipeline[\w.]*) import (?:\(([^)]*)\)|(.*))")
BY_NAME = "features"  # a folder whose modules are imported by their names


class Part(BaseModel):
    """A mapping with exactly these keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Bars(Part):
    """The bars that a stream feeds."""

    interval_ms: Annotated[int, Gt(0)]
    symbols: Annotated[list[str], MinLen(1)]
    calendar: dict[str, Any]  # `exchange`, `features` and `positions`
    time_unit: Literal["ms"]
    columns: dict[str, str]  # unit of each field


class OutputPart(Part):
    """The numbers of a prediction, see `targets.Output`."""

    kind: Kind
    names: list[str]
    levels: list[float]
    neutral_class: str | None
    has_direction: bool
    horizons: list[int] | None = None  # bars, of each name; None where a prediction has one horizon


class PredictionSetPart(Part):
    """The set of a prediction: all classes whose probability is at least `threshold`."""

    coverage: Annotated[float, Gt(0), Lt(1)]  # the share of rows whose class should be in their set
    threshold: float  # of float32 numbers: round it to one before you compare


class ModelPart(Part):
    """One graph: float32 `inputs` (1, F), or (1, window, F) with the oldest bar first, give `answer` (1, outputs)."""

    family: str
    plugin: str
    graph: str  # file name
    columns: list[str]  # of the inputs, in order, without those of the account
    account_columns: list[str]  # that follow them: of an agent
    window: Annotated[int, Gt(0)] | None  # bars; None: one bar without an axis for it
    symbols: list[str]  # that it predicts
    output: OutputPart
    target: dict[str, Any]
    score_std: float | None  # of the scores of its train rows; None where they have none
    prediction_set: PredictionSetPart | None = None  # of classes; None where a model makes no sets

    def make_output(self) -> Output:
        """Return what a prediction is."""
        return Output.from_description(self.output.model_dump())


class Ensemble(Part):
    """The weighted sum of target positions, or of ranks; a model counts 0 until its window is full."""

    name: str
    weights: Annotated[dict[str, Annotated[float, Ge(0)]], MinLen(1)]
    references: dict[str, list[float]] | None = None  # of each member, ascending: its score is ranked among them


class Trading(Part):
    """The rules and costs by which scores become positions, see `trading_rules`."""

    full_position_std: Annotated[float, Gt(0)]
    no_trade_band: float
    delay_bars: Annotated[int, Ge(0)]
    long_only: bool
    fee_bps: float
    slippage_bps: float
    borrow_rate: float
    capital: Annotated[float, Gt(0)]  # shared equally by the symbols
    max_participation: float

    def make_terms(self, *, capital: float) -> Terms:
        """Return the terms of an account with this capital."""
        names = ("fee_bps", "slippage_bps", "borrow_rate", "no_trade_band", "long_only", "max_participation")
        return make_terms(**{name: getattr(self, name) for name in names}, capital=capital)


class CrossSectionPart(Part):
    """The columns among symbols, the last ones of `columns`: those of a bar need the bars of all with its open time.

    They are known once each of `symbols` has this bar, or a later one opens: a symbol without it takes no part.
    """

    symbols: Annotated[list[str], MinLen(1)]  # that take part, in the order of their sums
    columns: Annotated[dict[str, str], MinLen(1)]  # definition of each; their windows are in features.cross_section


class Digests(Part):
    """Sha256 of what the bundle was made from."""

    graphs: dict[str, str]  # by model: of its graph
    models: dict[str, str]  # by model: of the SHA256SUMS of the trained model
    data: dict[str, str]  # by file: of what the models were fitted on
    code: str  # of the code that a hot path runs


class Contract(Part):
    """All that a hot path relies on."""

    schema_version: str
    dataset: str
    signal: str  # the model, or the ensemble, whose target is traded
    bars: Bars
    features: dict[str, Any]  # arguments of `features.engine.Stream`
    columns: list[str]  # of the stream, in its order
    warm_up_bars: int  # of a segment, that have no features
    models: Annotated[dict[str, ModelPart], MinLen(1)]
    ensemble: Ensemble | None
    trading: Trading
    sha256: Digests
    versions: dict[str, str]  # of packages
    cross_section: CrossSectionPart | None = None


def read_contract(folder: Path) -> Contract:
    """Return the contract of a bundle whose files are those of its SHA256SUMS.

    Raises:
        ArtifactError: a file is missing, damaged or not listed.
        ValueError: the contract is of another version, or names what the bundle lacks; one line.
    """
    file = verify_files(folder) / CONTRACT
    if not file.exists():
        raise ValueError(
            f"{folder} has no {CONTRACT}: it is no bundle; `dvc repro bundle` writes trained/bundles/<dataset>"
        )
    found = read_object(file)
    if "model" in found and "models" not in found:
        raise ValueError(
            f"{folder} has one model alone and is no bundle: name a folder of {BUNDLES}, or see "
            'pipeline/deployment/README.md, "One model alone"'
        )
    known = found.get("schema_version")
    if str(known).partition(".")[0] not in {each.partition(".")[0] for each in VERSIONS}:
        raise ValueError(
            f"{file}: schema_version is {known!r}; this code reads {', '.join(VERSIONS)}: make the bundle again, or "
            "use the code that made it"
        )
    try:
        contract = Contract.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        place, is_missing = ".".join(map(str, first["loc"])), first["type"] == "missing"
        value = "" if is_missing else f" (it is {first['input']!r:.40})"
        raise ValueError(f"{file}: {place}: {first['msg']}{value}; make the bundle again") from None
    _check_names(contract, file)
    return contract


def verify_files(folder: Path) -> Path:
    """Return the folder of a bundle, once its files are those of its SHA256SUMS; ArtifactError says what is not."""
    if folder.exists() and not folder.is_dir():
        raise ArtifactError(f"{folder} is no folder; name the folder of a bundle, such as {BUNDLES}/klines")
    try:
        return digests.verify(folder)
    except ArtifactError:
        if not (folder / digests.SUMS).is_file() or remedies.find_writer(folder) is not None:
            raise
        raise ArtifactError(
            f"{folder} is not as it was made: {_describe_damage(folder)}; copy the bundle again from where it was made"
        ) from None


def _describe_damage(folder: Path) -> str:
    """Return which files of a folder are changed, missing or not listed in SHA256SUMS."""
    text = (folder / digests.SUMS).read_text(encoding="utf-8", errors="replace")
    listed = {name: digest for digest, _, name in (line.partition("  ") for line in text.splitlines())}
    files = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
    del files[digests.SUMS]
    changed = [name for name in listed if name in files and digests.hash_file(files[name]) != listed[name]]
    faults = {
        "changed": changed,
        "missing": [name for name in listed if name not in files],
        "unlisted": [name for name in files if name not in listed],
    }
    parts = [f"{fault} {', '.join(map(repr, names))}" for fault, names in faults.items() if names]
    return "; ".join(parts) or f"{digests.SUMS} has other bytes than its writer gave it"


def read_object(file: Path) -> dict[str, Any]:
    """Return the JSON object in a file of a bundle; ValueError, with its name, where there is another value or none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON ({error}); make the bundle again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file} has a {type(found).__name__} in place of a JSON object; make the bundle again")
    return found


def check_certificate(folder: Path) -> None:
    """Raise ValueError where the certificate of a bundle is of another contract; one that is being made has none."""
    file = folder / CERTIFICATE
    if file.exists() and read_object(file).get("contract_sha256") != hash_contract(folder):
        raise ValueError(f"{file} is of another contract; make the bundle again")


def _check_names(contract: Contract, file: Path) -> None:
    """Raise ValueError where a contract names a column, model, symbol or graph that there is not."""
    members = contract.ensemble.weights if contract.ensemble else {}
    names = [*contract.models, *([contract.ensemble.name] if contract.ensemble else [])]
    graphs = {path.name for path in file.parent.glob("*.onnx")}
    faults = [f"ensemble.weights: there is no model {name!r}" for name in members if name not in contract.models]
    faults += [f"signal: {contract.signal!r} is none of {', '.join(names)}"] if contract.signal not in names else []
    predicted = {symbol for model in contract.models.values() for symbol in model.symbols}
    faults += [f"bars.symbols: no model predicts {name!r}" for name in contract.bars.symbols if name not in predicted]
    for name, model in contract.models.items():
        unknown = [column for column in model.columns if column not in contract.columns]
        faults += [f"models.{name}.columns: {unknown} are no columns of the stream"] if unknown else []
        faults += [f"models.{name}.graph: there is no {model.graph}"] if model.graph not in graphs else []
    faults += _find_reference_faults(contract.ensemble, contract.schema_version) if contract.ensemble else []
    faults += _find_cross_section_faults(contract)
    if faults:
        raise ValueError(f"{file}: {faults[0]}; make the bundle again")


def _find_reference_faults(ensemble: Ensemble, version: str) -> list[str]:
    """Return what is wrong with the references of an ensemble, in a contract of a version."""
    if ensemble.references is None:
        return []
    if version.partition(".")[0] == SCHEMA_VERSION.partition(".")[0]:
        return [f"schema_version is {version!r}; with ensemble.references it must be {RANKS_VERSION}"]
    name, lengths = "ensemble.references", {len(each) for each in ensemble.references.values()}
    if ensemble.references.keys() != ensemble.weights.keys() or len(lengths) != 1 or 0 in lengths:
        return [f"{name}: each model of weights, and no other, must have one, all of the same length"]
    is_sorted = {key: np.all(np.diff(each) >= 0) for key, each in ensemble.references.items()}
    return [f"{name}.{key} does not ascend" for key, ascends in is_sorted.items() if not ascends]


def _find_cross_section_faults(contract: Contract) -> list[str]:
    """Return what is wrong with the part `cross_section` of a contract."""
    part, version = contract.cross_section, contract.schema_version.partition(".")[0]
    if (part is not None) != (version == TOGETHER_VERSION.partition(".")[0]):
        return [f"schema_version is {contract.schema_version!r}; it is {TOGETHER_VERSION} with cross_section alone"]
    if (part is not None) != (contract.features.get("cross_section") is not None):
        return ["cross_section: it and features.cross_section stand there together, or neither does"]
    if part is None:
        return []
    faults = [f"cross_section.symbols: {name} is missing" for name in contract.bars.symbols if name not in part.symbols]
    is_last = contract.columns[-len(part.columns) :] == list(part.columns)
    return faults + ([] if is_last else ["cross_section.columns: they are not the last ones of columns"])


def choose_version(*, has_ranks: bool, has_cross_section: bool) -> str:
    """Return the lowest version of a contract whose readers know what it has."""
    if has_cross_section:
        return TOGETHER_VERSION
    return RANKS_VERSION if has_ranks else SCHEMA_VERSION


def make_schema(*, has_cross_section: bool = False) -> dict[str, Any]:
    """Return the JSON schema of a contract; that of versions before 3.0 has no `cross_section`."""
    schema = Contract.model_json_schema()
    if not has_cross_section:
        del schema["properties"]["cross_section"], schema["$defs"][CrossSectionPart.__name__]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


@cache
def hash_code() -> str:
    """Return the sha256 of the modules that a hot path runs, one after another, by path."""
    found, pending = set[Path](), [ROOT / FIRST, *(ROOT / BY_NAME).rglob("*.py")]
    while pending:
        if (file := pending.pop()) not in found and file.is_file():
            found.add(file)
            pending += [ROOT.joinpath(*name.split(".")[1:]).with_suffix(".py") for name in _list_imports(file)]
    total = hashlib.sha256()
    for file in sorted(found):
        total.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes())
    return total.hexdigest()


def _list_imports(file: Path) -> list[str]:
    """Return the names that may be modules of the package, of what a module imports."""
    names: list[str] = []
    for module, several, one in IMPORT.findall(file.read_text(encoding="utf-8")):
        names += [module, *(f"{module}.{name.strip().split(' ')[0]}" for name in (several or one).split(","))]
    return [name for name in names if "." in name]


def list_versions() -> dict[str, str]:
    """Return the versions of the packages that can change a prediction."""
    return {name: version(name) for name in PACKAGES}


def hash_contract(folder: Path) -> str:
    """Return the sha256 of the contract of a bundle."""
    return digests.hash_file(folder / CONTRACT)
