"""Klines from the user's own files, each pinned by its sha256 so that a result identifies its input bytes."""

import hashlib
import zlib
from pathlib import Path

import pandas as pd

CSV = (".csv", ".csv.gz")
PARQUET = (".parquet",)

Names = str | list[str] | None  # for all files, or one a file


def load(*, path: Names, sha256: Names, symbol: Names) -> pd.DataFrame:
    """Return the unchanged rows of one file, or of several concatenated, with a `symbol` column.

    The three arguments are single values, or lists of equal length. `symbol` names the rows of a file without such a
    column; it is null where the file has its own.

    Raises:
        ValueError: a file is missing, unreadable, or its digest is not the pinned one; gives the command that pins it.
    """
    paths = _check_paths(path)
    pins = _broadcast(sha256, len(paths), name="sha256")
    symbols = _broadcast(symbol, len(paths), name="symbol")
    digests = [_hash_file(file) for file in paths]
    if digests != pins:
        raise ValueError(_format_pin_error(paths, digests, pins, is_list=isinstance(path, list)))
    tables = [_add_symbol(_read_table(file), file, s) for file, s in zip(paths, symbols, strict=True)]
    return pd.concat(tables, ignore_index=True)


def _check_paths(path: Names) -> list[Path]:
    if not path:
        raise ValueError(
            "file: path is empty; name a .parquet, .csv or .csv.gz file: "
            "dvc exp run -S datasets.klines.source=file -S sources.file.path=FILE -S sources.file.symbol=BTCUSDT"
        )
    files = [Path(p) for p in ([path] if isinstance(path, str) else path)]
    for file in files:
        if not file.name.endswith((*CSV, *PARQUET)):
            raise ValueError(f"file: {file} has an unknown suffix; allowed are {', '.join((*PARQUET, *CSV))}")
        if not file.is_file():
            raise ValueError(f"file: {file} does not exist; relative paths start at the folder of dvc.yaml")
    return files


def _broadcast(values: Names, length: int, *, name: str) -> list[str | None]:
    """Return one value for each file; null stands for null for each."""
    if values is None:
        return [None for _ in range(length)]
    given = [values] if isinstance(values, str) else values
    if len(given) != length:
        raise ValueError(
            f"file: {name} has {len(given)} value(s) for {length} path(s); give one for each, in the same order"
        )
    return list(given)


def _hash_file(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _format_pin_error(paths: list[Path], digests: list[str], pins: list[str | None], *, is_list: bool) -> str:
    """Return which files differ from their pins, their digests, and the command that pins every file as it is now."""
    differing = [
        f"file: {file} has sha256 {actual}, and sources.file.sha256 {f'is {pin}' if pin else 'is empty'}"
        for file, actual, pin in zip(paths, digests, pins, strict=True)
        if actual != pin
    ]
    value = f"'sources.file.sha256=[{','.join(digests)}]'" if is_list else f"sources.file.sha256={digests[0]}"
    return "\n".join([*differing, "If these are the intended bytes, run:", f"  dvc exp run -S {value}"])


def _read_table(file: Path) -> pd.DataFrame:
    try:
        if file.name.endswith(PARQUET):
            return pd.read_parquet(file)
        return pd.read_csv(file, dtype={"symbol": "str"}, low_memory=False)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ValueError(f"file: {file} cannot be read as {''.join(file.suffixes[-2:])}: {error}") from error


def _add_symbol(table: pd.DataFrame, file: Path, symbol: str | None) -> pd.DataFrame:
    """Return the table with its symbol column first: its own or the given name, never both."""
    has_own = "symbol" in table.columns
    if has_own and symbol:
        raise ValueError(
            f"file: {file} has a symbol column, and sources.file.symbol is {symbol}; "
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
