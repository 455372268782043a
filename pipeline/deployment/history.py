"""The history of promotions: annotated git tags in the format of GTO, each of which names the one before it.

`model@v1.2.0` registers a version of a bundle, `model#prod#3` gives it a stage. The last line of a tag's message is
JSON: what happened, its evidence, and `previous`, the object of the tag before. A tag that was removed, moved or made
again breaks that chain.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from gto.tag import parse_name

from pipeline.deployment.revision import RegistryError, run_git

FIELDS = ("objectname", "objecttype", "*objectname", "refname:strip=2", "taggerdate:unix", "taggername", "contents")
FORMAT = "%00".join(f"%({field})" for field in FIELDS) + "%01"
REGISTER, PROMOTE, ROLLBACK = "register", "promote", "rollback"
GTO_ACTIONS = {REGISTER: "register", PROMOTE: "assign", ROLLBACK: "assign"}


class Tag(NamedTuple):
    """A tag of git."""

    tag_id: str
    kind: str  # "tag" of an annotated one
    commit: str
    name: str
    time: int  # seconds since 1970
    author: str
    message: str


@dataclass(frozen=True)
class Event:
    """A registration, promotion or rollback, as its tag records it."""

    tag: str
    tag_id: str
    commit: str
    time: int  # seconds since 1970
    author: str
    action: str  # REGISTER, PROMOTE or ROLLBACK
    version: str
    stage: str | None  # None of REGISTER
    previous: str | None  # the object of the tag before; None of the first one
    evidence: dict[str, str] | None  # of REGISTER
    path: str | None  # of the bundle, of REGISTER
    latency: dict[str, Any] | None = None  # by which a PROMOTE passed its limits; None where params.yaml sets none


@dataclass(frozen=True)
class History:
    """The events of one model, the first one first."""

    model: str
    events: tuple[Event, ...]

    @property
    def head(self) -> str | None:
        """The object of the last event's tag."""
        return self.events[-1].tag_id if self.events else None

    @property
    def versions(self) -> dict[str, Event]:
        """The registrations by version, the earliest first."""
        return {event.version: event for event in self.events if event.action == REGISTER}

    @property
    def stages(self) -> dict[str, str]:
        """The present version of each stage."""
        return {event.stage: event.version for event in self.events if event.stage is not None}

    def list_stage(self, stage: str) -> list[str]:
        """Return the versions that a rollback of a stage can reach, and last the present one.

        A promotion adds one, a rollback removes those after its version.
        """
        stack: list[str] = []
        for event in self.events:
            if event.stage != stage:
                continue
            if event.action == ROLLBACK and event.version in stack[:-1]:
                last = len(stack) - 2 - stack[:-1][::-1].index(event.version)
                del stack[last + 1 :]
            else:
                stack.append(event.version)
        return stack

    def describe(self) -> dict[str, Any]:
        """Return the content of the registry's file for this model."""
        return {"stages": self.stages, "events": [asdict(event) for event in self.events]}


def list_tags(root: Path) -> list[Tag]:
    """Return all tags of a repository, those that are not annotated too."""
    text = run_git(root, "for-each-ref", f"--format={FORMAT}", "refs/tags").decode(errors="replace")
    rows = [record.lstrip("\n").split("\0") for record in text.split("\1") if record.strip()]
    return [Tag(row[0], row[1], row[2] or row[0], row[3], int(row[4] or 0), row[5], row[6]) for row in rows]


def list_models(tags: Iterable[Tag]) -> list[str]:
    """Return the names of the models that tags of GTO's format name."""
    return sorted({str(parsed["name"]) for tag in tags if (parsed := parse_name(tag.name, raise_on_fail=False))})


def read_history(root: Path, model: str) -> History:
    """Return the history of a model.

    Raises:
        RegistryError: its tags are not those that this registry made, in one chain; names the first fault.
    """
    history, faults = inspect_history(list_tags(root), model)
    if faults:
        raise RegistryError(f"{faults[0]}; restore the tags, such as by `git fetch --tags --force`")
    return history


def inspect_history(tags: Iterable[Tag], model: str) -> tuple[History, list[str]]:
    """Return the history of a model as far as its chain of tags goes, and the faults of its tags."""
    own = [tag for tag in tags if parse_name(tag.name, raise_on_fail=False).get("name") == model]
    parsed = [parse_event(tag, model) for tag in own]
    faults = [each for each in parsed if isinstance(each, str)]
    events = [each for each in parsed if isinstance(each, Event)]
    ordered = follow_chain(events)
    if len(ordered) < len(events):
        apart = sorted(event.tag for event in events if event not in ordered)
        faults.append(f"{model}: tags are missing, or were made again, before {', '.join(apart)}")
    history = History(model, tuple(ordered))
    for event in ordered:
        registered = history.versions.get(event.version)
        if registered is None or registered.commit != event.commit:
            faults.append(f"{event.tag}: its commit {event.commit[:7]} is not that of {event.version}")
    return history, faults


def parse_event(tag: Tag, model: str) -> Event | str:
    """Return the event of a tag, or what is wrong with it."""
    if tag.kind != "tag":
        return f"{tag.name} is not annotated: this registry did not make it"
    try:
        content = json.loads(tag.message.strip().rpartition("\n")[2])
        fields = {name: content[name] for name in ("action", "version", "stage", "previous", "evidence", "path")}
        fields["latency"] = content.get("latency")  # tags of earlier versions have none
        action = GTO_ACTIONS[fields["action"]]
    except (json.JSONDecodeError, TypeError, KeyError):
        return f"{tag.name}: its message is not of this registry"
    named = parse_name(tag.name)
    expected = {"name": model, "action": action}
    expected |= {"version": fields["version"]} if action == "register" else {"stage": fields["stage"]}
    found = {"name": named["name"], "action": named["action"].value}
    found |= {key: named.get(key) for key in ("version", "stage") if key in expected}
    if found != expected:
        return f"{tag.name}: its message is of another tag, {fields['action']} {fields['version']}"
    return Event(tag=tag.name, tag_id=tag.tag_id, commit=tag.commit, time=tag.time, author=tag.author, **fields)


def follow_chain(events: Sequence[Event]) -> list[Event]:
    """Return the events from the one without a predecessor on, until one has none or several successors."""
    ordered: list[Event] = []
    while True:
        last = ordered[-1].tag_id if ordered else None
        following = [event for event in events if event.previous == last]
        if len(following) != 1:
            return ordered
        ordered += following


def render_message(subject: str, **content: Any) -> str:
    """Return the message of a tag: its subject, and the content as JSON in the last line."""
    return f"{subject}\n\n{json.dumps(content, sort_keys=True)}\n"
