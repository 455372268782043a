"""Published weights in a local folder, pinned by their sha256: nothing here downloads anything."""

from pathlib import Path

from pipeline import digests


def find_weights(folder: str, name: str, *, sha256: str | None, source: str) -> Path:
    """Return the file `name` of a folder of weights, whose bytes are the pinned ones.

    `source` says in the message of an absent file where it is published.

    Raises:
        ValueError: the file is absent, or its sha256 is not the pinned one; says what to do.
    """
    file = Path(folder) / name
    if not file.is_file():
        raise ValueError(
            f"weights is {folder!r}, and {file} does not exist; no stage downloads weights: get {name} of {source} "
            "once, pull it if DVC tracks it, or set weights to the folder that has it"
        )
    found = digests.hash_file(file)
    if found != (sha256 or "").strip().lower():
        pinned = f"is {sha256!r}" if sha256 else "is empty"
        raise ValueError(
            f"{file} has sha256 {found}, and the key sha256 beside weights {pinned}; if these are the intended bytes, "
            f"set sha256 to {found}"
        )
    return file
