"""Bars as lines of JSON, such as from standard input: one object for each bar, with the names of its fields."""

import json
from collections.abc import Iterator
from typing import BinaryIO

from pipeline.deployment.feeds.runner import Bar
from pipeline.deployment.feeds.tally import Tally

MAX_BYTES = 1 << 16  # of a line; a bar has about 300
NOT_JSON, NO_OBJECT, TOO_LONG = "not_json", "no_object", "too_long"


def read_json_lines(stream: BinaryIO, *, tally: Tally) -> Iterator[Bar]:
    """Yield the object of each line, as soon as the line ends; a line that is no JSON object is refused by its number.

    Blank lines are skipped. The text is UTF-8; a line of more than MAX_BYTES is refused without being held in memory.
    """
    number = 0
    while line := stream.readline(MAX_BYTES):
        number += 1
        if len(line) == MAX_BYTES and not line.endswith(b"\n"):
            while (rest := stream.readline(MAX_BYTES)) and not rest.endswith(b"\n"):
                pass
            tally.refuse(TOO_LONG, f"line {number} has {MAX_BYTES:,} bytes or more; write one bar in each line")
        elif line.strip():
            bar = parse_object(line, name=f"line {number}", tally=tally)
            if bar is not None:
                yield bar


def parse_object(text: bytes, *, name: str, tally: Tally) -> dict[str, object] | None:
    """Return the JSON object in a text; None, and the text is counted as refused, where it is none."""
    try:
        content = json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # of the text, its encoding, or a number of thousands of digits
        tally.refuse(NOT_JSON, f"{name} is no JSON ({error}): {_shorten(text)}; write one object for each bar")
        return None
    if not isinstance(content, dict):
        tally.refuse(NO_OBJECT, f"{name} is {type(content).__name__}: {_shorten(text)}; write one object for each bar")
        return None
    return content


def _shorten(text: bytes) -> str:
    return repr(text[:60].decode("utf-8", "replace") + ("…" if len(text) > 60 else ""))
