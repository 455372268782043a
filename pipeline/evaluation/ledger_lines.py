"""The digests of the lines of the ledger: each line ends in its own, so that lines of two branches can be merged."""

import hashlib
import io
import re
from pathlib import Path

from pipeline.digests import ArtifactError

DIGEST = re.compile(r',"sha256":"([0-9a-f]{64})"(?=\}\n\Z)')  # the last key of each line of the ledger
HARVEST = "python -m pipeline.evaluation.ledger harvest"


def verify_lines(file: Path, *, needs_digests: bool = True) -> str:
    """Return the text of the ledger without the digests of its lines; none where the file does not exist.

    Raises:
        ArtifactError: a line has another digest than its own, or none where it `needs_digests`; names the line.
    """
    content = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
    lines = list(io.StringIO(content))
    for number, line in enumerate(lines, start=1):
        found = DIGEST.search(line)
        if needs_digests if found is None else found[1] != _hash_text(DIGEST.sub("", line)):
            raise ArtifactError(
                f"{file}, line {number} is damaged: {'its digest is not that of its content' if found else 'no digest'}"
                f"; run `git checkout {file}`, or, where you changed it, delete its digest and run `{HARVEST}`"
            )
    return "".join(DIGEST.sub("", line) for line in lines)


def add_digests(text: str) -> str:
    """Return the lines of a ledger, each with its digest as the last key."""
    return "".join(f'{line[:-2]},"sha256":"{_hash_text(line)}"}}\n' for line in io.StringIO(text))


def _hash_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
