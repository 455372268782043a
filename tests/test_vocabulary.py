"""The code base speaks the language of its field: names, params, reports and prose avoid the words of STYLE.md."""

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

ROOT = Path(__file__).parents[1]
CODE = [file for folder in ("pipeline", "tests", "benchmarks") for file in sorted((ROOT / folder).rglob("*.py"))]
LANGUAGE_TEST = Path(__file__)  # it names the words that it refuses

BARE_NAMES = {"by", "late"}  # refused as a whole identifier only: `order_by` is fine
NAME_WORDS = """
    told tells asked kept feared rolled paid fate shadow pupil bench course promise promised ground twin twins
    answer answers answered mend cries asleep whoever learnt foresee foreseen foretold
"""  # refused as a word of an identifier or of a key
PROSE_WORDS = r"""
    told, tells, asked, feared, paid, fate, shadow, pupil, bench, course, promised?, ground, twins?, learnt, whoever
    came\s+true, comes?\s+true, answers?, answered, brings, brought, goes\s+with, go\s+with, mend, would\s+else
    (?:is|are|be)\s+no\s+numbers?, by\s+heart, cries, asleep, foresees?, foreseen, foretold, has\s+a\s+say
    (?:stops?|stopped|through|runs?)\s+the\s+line, the\s+whole\s+line, the\s+line\s+(?:stops|finds|says)
"""  # refused in docstrings, comments, error messages and pages, outside of code spans
BRITISH = r"""
    \w*(?:standard|quant|normal|memor|general|regular|annual|initial|equal|recogn|student|summar)is(?:e|ed|es|er|ing|ation)\w*
    \w*optimis(?![tm])\w*, \w*realis[ei]\w*, analyse[sd]?, \w*(?:behavi|col|fav|neighb)our\w*, centred?, centres
    grey, licence, \w*(?:label|model)l(?:ed|ing)\w*
"""  # the libraries that we use have US spelling


VERB_WORDS = """
    ablate accept accumulate act activate add adjust advance aggregate align allocate allow alter append apply
    ask assemble assert assess assign attend average backtest balance bin bootstrap bound broadcast build call
    cast center check choose clamp classify clean clip close cluster collect combine compare compile compound
    concatenate connect convert copy correct correlate corrupt count cover create cross cut decay decide decode
    decorate define delay derive describe detach detect diagnose disable discard discount divide download draw
    drop earn embed enable encode ensure enumerate equalize estimate evaluate exclude execute expand explain
    export extend extract fetch fill filter find fingerprint finish fit flag flatten flip forecast forget fork
    format forward gather generate group grow guard hash hold ignore import impute index infer initialize inline
    insert intersect invert iterate join judge keep label lag launch learn limit list load locate log look lower
    make map mark mask match measure memorize merge mix move multiply name narrow normalize note notify number
    observe open order orient overlay overwrite pack pad parse permute perturb pick place plan plant plot pop
    preactivate predict prepare prepend print process project propose pull purge push put quantize query raise
    randomize rank read rebuild receive recompute record redraw reduce refit refuse register regress reject
    relabel release remember remove rename render reorder repeat replace replay report require resample rescale
    reset reshape resolve restart restore resume retain retry reverse reward rewrite roll round run sample save
    scale scan scatter score search select send serialize set share shift show shuffle simulate skip slice
    smooth snap solve sort split spread stack standardize start step stop store stream style subtract suggest
    sum summarize switch tabulate tag take test tile time to touch trace track trade train transform traverse
    trim truncate try understate undo unpack update use validate verify view visit wait walk warm weigh weight
    winsorize wrap write yield zero
"""
VERBS = {*VERB_WORDS.split(), "is", "has", "can", "should", "needs"}  # `is_` and the like lead facts
MIN_VERB_SHARE = 0.6


def compile_words(words: str) -> re.Pattern[str]:
    """Return a pattern of whole words; commas and line breaks separate them."""
    alternatives = "|".join(re.split(r"[,\n]\s*", words.strip()))
    return re.compile(rf"\b(?:{alternatives})\b", re.IGNORECASE)


PROSE, SPELLING = compile_words(PROSE_WORDS), compile_words(BRITISH)


class Fault(NamedTuple):
    """One word that is refused, and where it stands."""

    place: str
    word: str

    def __str__(self) -> str:
        """Return the place and the word."""
        return f"{self.place}: {self.word}"


def list_faults(faults: list[Fault]) -> str:
    return "\n".join([f"{len(faults)} refused words", *map(str, faults)])


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def name_place(file: Path, line: int | None = None) -> str:
    path = str(file.relative_to(ROOT))
    return path if line is None else f"{path}:{line}"


def iterate_identifiers(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield every identifier that a module defines, and its line; names of other libraries are not ours."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno
        elif isinstance(node, ast.alias) and node.asname:
            yield node.asname, node.lineno


def find_refused_words(identifier: str) -> set[str]:
    words = {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^A-Za-z_.]+", identifier)}
    return (words & set(NAME_WORDS.split())) | ({identifier} & BARE_NAMES)


def is_sentence(identifier: str) -> bool:
    """Whether an identifier is the sentence of a test, which is prose."""
    return identifier.startswith("test_")


def find_name_faults(file: Path) -> Iterator[Fault]:
    for word in find_refused_words(file.stem):
        yield Fault(name_place(file), word)
    for identifier, line in iterate_identifiers(parse(file)):
        if is_sentence(identifier):
            found = set(PROSE.findall(identifier.replace("_", " ")))
        else:
            found = find_refused_words(identifier)
        for word in sorted(found):
            yield Fault(name_place(file, line), f"{word} in {identifier}")


def iterate_docstrings(tree: ast.Module) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text, node.body[0].lineno


def iterate_messages(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield the texts of errors and of log lines."""
    for node in ast.walk(tree):
        is_log = isinstance(node, ast.Call) and ast.unparse(node.func).startswith(("log.", "sys.exit"))
        if isinstance(node, ast.Raise) or is_log:
            for part in ast.walk(node):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value, part.lineno


def iterate_comments(file: Path) -> Iterator[tuple[str, int]]:
    source = io.StringIO(file.read_text(encoding="utf-8"))
    for token in tokenize.generate_tokens(source.readline):
        if token.type == tokenize.COMMENT:
            yield token.string, token.start[0]


def strip_code(text: str) -> str:
    """Return the text, line for line, without code blocks, code spans and quoted names such as the graph's output."""
    code = r"```.*?```|`[^`]*`|\"[^\"\s]*\"|'[^'\s]*'"
    return re.sub(code, lambda found: " " + "\n" * found[0].count("\n"), text, flags=re.DOTALL)


def find_prose_faults(file: Path, texts: Iterator[tuple[str, int]], pattern: re.Pattern[str]) -> Iterator[Fault]:
    for text, line in texts:
        prose = strip_code(text)
        for match in pattern.finditer(prose):
            yield Fault(name_place(file, line + prose.count("\n", 0, match.start())), match[0])


def iterate_keys(content: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield every key of nested mappings, and its dotted path."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield str(key), f"{path}{key}"
            yield from iterate_keys(value, f"{path}{key}.")
    elif isinstance(content, list):
        for value in content:
            yield from iterate_keys(value, path)


def find_key_faults(file: Path, content: object) -> set[Fault]:
    return {
        Fault(name_place(file), f"{word} in {path}")
        for key, path in iterate_keys(content)
        for word in find_refused_words(key)
    }


def iterate_own_code() -> Iterator[Path]:
    yield from (file for file in CODE if file != LANGUAGE_TEST)


def test_identifiers_avoid_the_refused_words() -> None:
    faults = [fault for file in iterate_own_code() for fault in find_name_faults(file)]
    assert not faults, list_faults(faults)


@pytest.mark.parametrize("pattern", [PROSE, SPELLING], ids=["words", "spelling"])
def test_docstrings_avoid_the_refused_words(pattern: re.Pattern[str]) -> None:
    faults = [
        fault
        for file in iterate_own_code()
        for fault in find_prose_faults(file, iterate_docstrings(parse(file)), pattern)
    ]
    assert not faults, list_faults(faults)


@pytest.mark.parametrize("pattern", [PROSE, SPELLING], ids=["words", "spelling"])
def test_comments_and_messages_avoid_the_refused_words(pattern: re.Pattern[str]) -> None:
    faults = []
    for file in iterate_own_code():
        faults += find_prose_faults(file, iterate_comments(file), pattern)
        faults += find_prose_faults(file, iterate_messages(parse(file)), pattern)
    assert not faults, list_faults(faults)


def test_identifiers_have_us_spelling() -> None:
    faults = [
        Fault(name_place(file, line), identifier)
        for file in iterate_own_code()
        for identifier, line in iterate_identifiers(parse(file))
        if SPELLING.search(identifier.replace("_", " "))
    ]
    assert not faults, list_faults(faults)


@pytest.mark.parametrize("name", ["params.yaml", "dvc.yaml"])
def test_keys_and_comments_of_the_pipeline_avoid_the_refused_words(name: str) -> None:
    file = ROOT / name
    text = file.read_text(encoding="utf-8")
    faults = sorted(find_key_faults(file, yaml.safe_load(text)))
    lines = [(line, number) for number, line in enumerate(text.splitlines(), start=1)]
    for pattern in (PROSE, SPELLING):
        faults += find_prose_faults(file, iter(lines), pattern)
    assert not faults, list_faults(faults)


def test_keys_of_the_reports_avoid_the_refused_words() -> None:
    reports = ROOT / "trained" / "reports"
    faults: set[Fault] = set()
    for file in reports.rglob("*.json"):
        faults |= find_key_faults(file, json.loads(file.read_text(encoding="utf-8")))
    assert not faults, list_faults(sorted(faults))


def test_readmes_avoid_the_refused_words() -> None:
    files = [ROOT / "README.md", *sorted((ROOT / "pipeline").rglob("README.md")), *(ROOT / "benchmarks").glob("*.md")]
    faults = [
        fault
        for file in files
        for pattern in (PROSE, SPELLING)
        for fault in find_prose_faults(file, iter([(file.read_text(encoding="utf-8"), 1)]), pattern)
    ]
    assert not faults, list_faults(faults)


def test_docstrings_open_with_what_comes_back_and_not_with_what_or_how() -> None:
    faults = [
        Fault(name_place(file, line), text.splitlines()[0])
        for file in iterate_own_code()
        for text, line in iterate_docstrings(parse(file))
        if re.match(r"(What|How)\b", text)
    ]
    assert not faults, list_faults(faults)


def is_property(function: ast.FunctionDef) -> bool:
    return any(re.search(r"property|\.setter", ast.unparse(decorator)) for decorator in function.decorator_list)


def iterate_functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    """Yield the functions of a module that need a verb: all but properties and dunder methods."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and not is_property(node) and not re.fullmatch(r"__\w+__", node.name):
            yield node


def test_function_names_are_led_by_a_verb() -> None:
    names = [
        (node.name.lstrip("_"), name_place(file, node.lineno))
        for file in iterate_own_code()
        if file.is_relative_to(ROOT / "pipeline")
        for node in iterate_functions(parse(file))
    ]
    others = [Fault(place, name) for name, place in names if name.split("_")[0] not in VERBS]
    share = 1 - len(others) / len(names)
    assert share > MIN_VERB_SHARE, f"{share:.0%} of {len(names)} names are led by a verb; {list_faults(others)}"


@pytest.mark.parametrize(
    ("identifier", "expected"),
    [
        ("by", {"by"}),
        ("order_by", set()),
        ("late", {"late"}),
        ("isolate", set()),
        ("rows_told", {"told"}),
        ("TwinColumn", {"twin"}),
        ("benchmark", set()),
        ("background", set()),
    ],
)
def test_words_of_identifiers_are_whole_words(identifier: str, expected: set[str]) -> None:
    assert find_refused_words(identifier) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It tells the label.", ["tells"]),
        ("What came\ntrue.", ["came\ntrue"]),
        ('The graph\'s output is "answer".', []),
        ("The output `answer` of a benchmark.", []),
        ("Headlines of the liner.", []),
        ("It stops the line.", ["stops the line"]),
        ("The line of a plot, where no number is enough.", []),
    ],
)
def test_prose_is_searched_for_whole_words_outside_of_code(text: str, expected: list[str]) -> None:
    assert [match[0] for match in PROSE.finditer(strip_code(text))] == expected


@pytest.mark.parametrize("text", ["standardised", "is_labelled", "optimiser", "behaviour", "quantisation"])
def test_british_spelling_is_found(text: str) -> None:
    assert SPELLING.search(text.replace("_", " "))


@pytest.mark.parametrize("text", ["standardized", "optimistic", "labeled", "precision", "realistic", "center"])
def test_us_spelling_is_accepted(text: str) -> None:
    assert not SPELLING.search(text)
