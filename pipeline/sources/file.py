"""Klines from files that the user names, each pinned by its sha256 so that a result says which bytes it came from."""

import hashlib
import zlib
from pathlib import Path

import pandas as pd

CSV = (".csv", ".csv.gz")
PARQUET = (".parquet",)

Names = str | list[str] | None  # for all files, or one a file


def load(*, path: Names, sha256: Names, symbol: Names) -> pd.DataFrame:
    """The rows of one file, or of several one after another, as they stand, with `symbol`.

    The three arguments are single values, or lists of equal length. `symbol` names the rows of a file that has no such
    column; it is null where the file has its own. Raises ValueError where a file is missing, unreadable or of a digest
    that is not pinned, and says what to run.
    """
    paths = _paths(path)
    wanted = _aligned(sha256, len(paths), name="sha256")
    symbols = _aligned(symbol, len(paths), name="symbol")
    digests = [_digest(file) for file in paths]
    if digests != wanted:
        raise ValueError(_pin_message(paths, digests, wanted, is_list=isinstance(path, list)))
    tables = [_named(_read(file), file, s) for file, s in zip(paths, symbols, strict=True)]
    return pd.concat(tables, ignore_index=True)


def _paths(path: Names) -> list[Path]:
    if not path:
        raise ValueError(
            "file: path is empty; name a .parquet, .csv or .csv.gz file: "
            "dvc exp run -S datasets.klines.source=file -S sources.file.path=FILE -S sources.file.symbol=BTCUSDT"
        )
    files = [Path(p) for p in ([path] if isinstance(path, str) else path)]
    for file in files:
        if not file.name.endswith((*CSV, *PARQUET)):
            raise ValueError(f"file: {file} has an unknown suffix; {', '.join((*PARQUET, *CSV))} are read")
        if not file.is_file():
            raise ValueError(f"file: {file} does not exist; relative paths start at the folder of dvc.yaml")
    return files


def _aligned(values: Names, length: int, *, name: str) -> list[str | None]:
    """One value a file; null stands for null for each."""
    if values is None:
        return [None for _ in range(length)]
    given = [values] if isinstance(values, str) else values
    if len(given) != length:
        raise ValueError(
            f"file: {name} has {len(given)} value(s) for {length} path(s); give one each, in the same order"
        )
    return list(given)


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _pin_message(paths: list[Path], digests: list[str], wanted: list[str | None], *, is_list: bool) -> str:
    """Which file differs, what it hashes to, and the line that pins every file as it now is."""
    differing = [
        f"file: {file} has sha256 {actual}, and sources.file.sha256 {f'says {pin}' if pin else 'pins none'}"
        for file, actual, pin in zip(paths, digests, wanted, strict=True)
        if actual != pin
    ]
    value = f"'sources.file.sha256=[{','.join(digests)}]'" if is_list else f"sources.file.sha256={digests[0]}"
    return "\n".join([*differing, "If these are the bytes that you mean, run:", f"  dvc exp run -S {value}"])


def _read(file: Path) -> pd.DataFrame:
    try:
        if file.name.endswith(PARQUET):
            return pd.read_parquet(file)
        return pd.read_csv(file, dtype={"symbol": "str"}, low_memory=False)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ValueError(f"file: {file} cannot be read as {''.join(file.suffixes[-2:])}: {error}") from error


def _named(table: pd.DataFrame, file: Path, symbol: str | None) -> pd.DataFrame:
    """The table with its symbol column first: its own, or the name that was given, never both."""
    has_own = "symbol" in table.columns
    if has_own and symbol:
        raise ValueError(
            f"file: {file} has a symbol column, and sources.file.symbol says {symbol}; "
            "drop one of the two: dvc exp run -S sources.file.symbol=null"
        )
    if not has_own and not symbol:
        raise ValueError(
            f"file: {file} has no symbol column, and sources.file.symbol is null; "
            "name its rows: dvc exp run -S sources.file.symbol=BTCUSDT"
        )
    if has_own:
        return table[["symbol", *table.columns.drop("symbol")]]
    return pd.concat([pd.Series(symbol, index=table.index, name="symbol", dtype="str"), table], axis=1)
