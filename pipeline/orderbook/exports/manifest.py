"""The facts that a folder of exports gives of itself: labels, codes, sequences and files, in several spellings.

Our exports have one `dataset_manifest.json`. Others divide the same facts among that file, `<day>_metadata.json` and
`<day>_horizons.json` for each day, and `export_config.toml`. Of several that have a fact the first of these counts.
"""

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline import digests
from pipeline.orderbook.columns import COLUMNS
from pipeline.orderbook.exports.records import MAX_ROWS, FileRecord, is_count, parse_records

MANIFEST, CONFIG = "dataset_manifest.json", "export_config.toml"
SCHEMA_VERSION = "2.2"
DOWN, FLAT, UP = range(3)
CLASSES = ("down", "flat", "up")  # our class codes are their indices
STRATEGIES = {  # and how manifests spell them, without case, blanks and underscores
    "tlob": ("tlob", "smoothed", "multihorizon", "singlehorizon", "trend"),
    "triple_barrier": ("triplebarrier", "barrier"),
    "opportunity": ("opportunity", "bigmove"),
}
STRATEGY_CODES = {"tlob": (-1, 0, 1), "triple_barrier": (0, 1, 2), "opportunity": (-1, 0, 1)}  # that we write
CLASS_WORDS = (  # likewise
    {"down", "bigdown", "stoploss", "sell", "decrease"},
    {"flat", "stable", "stationary", "neutral", "timeout", "noopportunity", "hold"},
    {"up", "bigup", "profittarget", "buy", "increase"},
)
CODE_FORMATS = {"signedint8": (-1, 0, 1), "classindexint8": (0, 1, 2)}  # of manifests that name no class
SPELLINGS = {  # dotted paths of each fact
    "schema_version": ("schema_version", "schema", "contract_version", "provenance.contract_version"),
    "strategy": ("labeling.strategy", "labeling_strategy", "label_strategy", "labels.strategy", "strategy"),
    "horizons": (
        "labeling.horizons",
        "horizons",
        "label_config.horizons",
        "labels.max_horizons",
        "labels.horizons",
        "labeling.horizon",
        "horizon",
        "labels.horizon",
    ),
    "reach": ("labeling.reach", "reach"),
    "smoothing_window": ("labeling.smoothing_window", "smoothing_window", "labels.smoothing_window"),
    "codes": (
        "labeling.codes",
        "codes",
        "labeling.label_encoding",
        "label_encoding",
        "label_codes",
    ),
    "sequence_length": ("sequence_length", "window_size", "sequence.window_size", "sequence.length", "seq_len"),
    "stride": ("stride", "sequence.stride", "sequence_stride"),
    "symbol": ("symbol.name", "symbol"),
    "columns": ("columns", "feature_names"),
    "column_count": ("feature_count", "n_features"),
    "normalization": ("normalization",),
    "files": ("files",),
    "splits": ("splits",),
}
REMEDY = "add it to the manifest, or set sources.export.manifest.{name}"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The facts of a folder of exports."""

    schema_version: str
    strategy: str
    horizons: tuple[int, ...]  # in rows, of each column of labels
    reach: tuple[int, ...]  # rows after its own that a label uses at most, by horizon
    smoothing_window: int | None
    codes: Mapping[int, int]  # our class of each code
    sequence_length: int
    stride: int
    symbol: str
    files: Mapping[str, FileRecord] = field(default_factory=dict)  # by path in the folder; {} where none is recorded
    splits: Mapping[str, Sequence[str]] = field(default_factory=dict)  # the days of each; {} where none are listed

    def describe(self) -> dict[str, Any]:
        """Return the facts that the labels of a dataset need, as JSON has them."""
        return {
            "strategy": self.strategy,
            "horizons": list(self.horizons),
            "reach": list(self.reach),
            "smoothing_window": self.smoothing_window,
        }


def read_manifest(folder: Path, *, given: Mapping[str, Any] | None = None) -> Manifest:
    """Return the manifest of a folder; `given` are facts by our names that count before those of its files.

    Raises:
        ValueError: a fact is missing, unknown or not allowed; names it, and what to do.
    """
    if unknown := sorted(set(given or {}) - set(SPELLINGS)):
        raise ValueError(f"manifest: there are no facts {unknown}; there are {', '.join(SPELLINGS)}")
    documents = [{"labeling": {}, **dict(given or {})}, *read_documents(folder)]
    if len(documents) == 1:
        raise ValueError(f"{folder}: has no {MANIFEST}; give the folder of an export")
    return parse_manifest(documents, name=str(folder / MANIFEST))


def read_documents(folder: Path) -> list[dict[str, Any]]:
    """Return the content of the files that may describe an export, in the order in which they count."""
    files = [folder / MANIFEST]
    for pattern in ("*_metadata.json", "*_horizons.json"):
        files += sorted(folder.glob(f"*/{pattern}"))[:1]
    found = [read_object(file) for file in files if file.is_file()]
    if (config := folder / CONFIG).is_file():
        try:
            found.append(tomllib.loads(config.read_text(encoding="utf-8")))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{config}: is no TOML ({error}); write it again") from None
    return found


def read_object(file: Path) -> dict[str, Any]:
    """Return the object of a JSON file; ValueError where it is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if digests.JSON_DIGEST.search(file.read_bytes()):  # one that we wrote
            digests.verify(file)
    except digests.ArtifactError:
        raise ValueError(
            f"{file}: is not as it was written; copy or export it again, or remove its last key, sha256"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: is no JSON ({error}); write it again") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file}: is no object of keys and values; write it again")
    return content


def parse_manifest(documents: Sequence[Mapping[str, Any]], *, name: str) -> Manifest:
    """Return the manifest that documents describe, the first that has a fact counts; see `read_manifest`."""
    facts = Facts(documents, name=name)
    facts.check_contract()
    strategy, horizons = facts.find_strategy(), facts.find_lengths("horizons")
    window = facts.find_optional("smoothing_window")
    if window is not None and not _is_length(window):
        raise ValueError(f"{name}: smoothing_window is {window!r}; it must be a whole number from 1 to {MAX_ROWS}")
    reach = horizons if facts.find_optional("reach") is None else facts.find_lengths("reach")
    if facts.find_optional("reach") is None and strategy == "tlob":
        reach = tuple(each + (window or 0) for each in horizons)  # wherever the second window ends, it is not later
    if len(reach) != len(horizons):
        raise ValueError(f"{name}: reach has {len(reach)} numbers for {len(horizons)} horizons; give one for each")
    return Manifest(
        schema_version=SCHEMA_VERSION,
        strategy=strategy,
        horizons=horizons,
        reach=reach,
        smoothing_window=window,
        codes=facts.find_codes(),
        sequence_length=facts.find_lengths("sequence_length")[0],
        stride=facts.find_lengths("stride")[0],
        symbol=facts.find_symbol(),
        files=facts.find_files(),
        splits=facts.find_splits(),
    )


class Facts:
    """The facts of several documents, found by any of their spellings."""

    def __init__(self, documents: Sequence[Mapping[str, Any]], *, name: str) -> None:
        """Take the documents in the order in which they count; `name` is that of messages."""
        self._documents, self._name = documents, name

    def find(self, fact: str) -> Any:
        """Return a fact; ValueError where no document has it."""
        if (found := self.find_optional(fact)) is None:
            raise ValueError(f"{self._name}: {fact} is missing; {REMEDY.format(name=fact)}")
        return found

    def find_optional(self, fact: str) -> Any:
        """Return a fact; None where no document has it."""
        paths = SPELLINGS[fact]
        found = (_look_up(document, path) for document in self._documents for path in paths)
        return next((each for each in found if each is not None), None)

    def find_lengths(self, fact: str) -> tuple[int, ...]:
        """Return the numbers of rows of a fact: of a list of them, or of one."""
        found = self.find(fact)
        lengths = tuple(found) if isinstance(found, list | tuple) else (found,)
        if not lengths or not all(map(_is_length, lengths)):
            raise ValueError(
                f"{self._name}: {fact} is {found!r}; it must be one or more whole numbers from 1 to {MAX_ROWS}"
            )
        if fact == "horizons" and len(set(lengths)) < len(lengths):
            raise ValueError(f"{self._name}: horizons are {found!r}; each may stand there once")
        return lengths

    def find_strategy(self) -> str:
        """Return our name of the strategy of the labels; ValueError where it is unknown."""
        found = self.find("strategy")
        for strategy, spellings in STRATEGIES.items():
            if _simplify(found) in spellings:
                return strategy
        raise ValueError(f"{self._name}: strategy is {found!r}; it must be one of {', '.join(STRATEGIES)}")

    def find_codes(self) -> dict[int, int]:
        """Return our class of each code of the labels, from the manifest alone: a code is never assumed."""
        found = self.find("codes")
        if isinstance(found, dict) and "values" in found:
            found = found["values"]
        if isinstance(found, dict) and "format" in found:
            found = found["format"]
        if isinstance(found, str) and _simplify(found) in CODE_FORMATS:
            return dict(zip(CODE_FORMATS[_simplify(found)], (DOWN, FLAT, UP), strict=True))
        codes = dict(_pair_codes(found)) if isinstance(found, dict) else {}
        if sorted(codes.values()) != [DOWN, FLAT, UP]:
            raise ValueError(
                f"{self._name}: codes are {found!r}; they must name a code for each of {', '.join(CLASSES)}, such as "
                '{"-1": "down", "0": "flat", "1": "up"}; ' + REMEDY.format(name="codes")
            )
        return codes

    def find_files(self) -> dict[str, FileRecord]:
        """Return what is recorded of each file, by its path; {} where nothing is."""
        return parse_records(self.find_optional("files") or {}, name=self._name)

    def find_splits(self) -> dict[str, list[str]]:
        """Return the days that are listed of each split; {} where a manifest has no such lists."""
        found = self.find_optional("splits")
        is_listed = isinstance(found, Mapping) and all(isinstance(days, list) for days in found.values())
        return {str(split): [str(day) for day in days] for split, days in found.items()} if is_listed else {}

    def find_symbol(self) -> str:
        """Return the symbol; ValueError where it is no word or number."""
        found = self.find("symbol")
        if not isinstance(found, str | int) or not str(found).strip():
            raise ValueError(f"{self._name}: symbol is {found!r}; {REMEDY.format(name='symbol')}")
        return str(found)

    def check_contract(self) -> None:
        """Raise ValueError where the schema or the columns are not those of the contract, or are normalized."""
        if (version := str(self.find("schema_version"))) != SCHEMA_VERSION:
            raise ValueError(
                f"{self._name}: schema_version is {version}; it must be {SCHEMA_VERSION}, whose 98 columns we know: "
                "export it again by that schema"
            )
        columns, count = self.find_optional("columns"), self.find_optional("column_count")
        if columns is not None and not isinstance(columns, list):
            raise ValueError(f"{self._name}: columns is {columns!r:.40}; it must be a list of {len(COLUMNS)} names")
        if columns is not None and not _has_order(columns):
            raise ValueError(
                f"{self._name}: its {len(columns)} columns are not the {len(COLUMNS)} of schema {SCHEMA_VERSION} in "
                "their order; export those"
            )
        if count is not None and count != len(COLUMNS):
            raise ValueError(
                f"{self._name}: column_count is {count!r:.40}; it must be {len(COLUMNS)}: export the columns of schema "
                f"{SCHEMA_VERSION}"
            )
        normalization = self.find_optional("normalization")
        if _is_normalized(normalization):
            raise ValueError(
                f"{self._name}: columns are normalized ({normalization!r}): their prices are lost, and statistics of a "
                "whole day look ahead; export it again without normalization"
            )


def _look_up(document: Any, path: str) -> Any:
    """Return the value at a dotted path, None where there is none; a path that ends at a section of `name` is none."""
    for key in path.split("."):
        document = document.get(key) if isinstance(document, Mapping) else None
    return document


def _simplify(value: object) -> str:
    """Return a word in small letters and digits alone."""
    return "".join(each for each in str(value).lower() if each.isalnum())


def _pair_codes(found: Mapping[Any, Any]) -> Iterator[tuple[int, int]]:
    """Yield each code and our class of it, from code to word or from word to code."""
    for pair in found.items():
        for code, word in (pair, pair[::-1]):
            for number, words in enumerate(CLASS_WORDS):
                if _simplify(word) in words and _is_code(code):
                    yield int(code), number


def _has_order(columns: Sequence[str]) -> bool:
    """Return whether columns may be ours in our order: a name of ours stands nowhere but at its own index."""
    return len(columns) == len(COLUMNS) and all(
        own == name or name not in COLUMNS for own, name in zip(COLUMNS, columns, strict=True)
    )


def _is_code(value: object) -> bool:
    """Return whether a value is the code of a class, as a number or in text."""
    return not isinstance(value, bool) and str(value).removeprefix("-").isdecimal()


def _is_length(value: object) -> bool:
    """Return whether a value is a number of rows, from 1 to MAX_ROWS."""
    return is_count(value) and value != 0


def _is_normalized(found: Any) -> bool:
    """Return whether a manifest says that columns are normalized."""
    if isinstance(found, Mapping):
        return bool(found.get("applied", _is_normalized(found.get("strategy"))))
    return found is not None and _simplify(found) not in ("", "none", "raw", "false")
