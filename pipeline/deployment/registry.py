"""The registry of promoted bundles: `python -m pipeline.deployment.registry promote|rollback|verify|list|restore`.

`promote` registers the bundle of the present commit and gives it a stage, `rollback` gives a stage its earlier bundle
again. Both add annotated git tags in the format of GTO, and never change one. `verify` compares tags, DVC's cache and
the promoted files, with exit status 1 where they differ; `list` prints the events; `restore` writes the promoted files
from the tags. A model is an entry of `artifacts` in dvc.yaml.
"""

import argparse
import fcntl
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gto.api
import yaml
from dvc.exceptions import DvcException
from dvc.repo import Repo
from gto.exceptions import GTOException
from scmrepo.exceptions import SCMError

from pipeline import artifacts, cli, config
from pipeline.deployment import contract, history, latency_rule, promoted, revision
from pipeline.deployment.evidence import evidence_path
from pipeline.deployment.history import PROMOTE, REGISTER, ROLLBACK, Event, History
from pipeline.deployment.latency_rule import LatencyRule
from pipeline.deployment.promoted import PROMOTED, REGISTRY, RESTORE
from pipeline.deployment.revision import RegistryError, Revision, run_git
from pipeline.evaluation import experiments
from pipeline.evaluation.ledger import Ledger, read_lines
from pipeline.evaluation.ledger_lines import HARVEST

STAGES = ("staging", "prod")
FIRST = "v1.0.0"
MAX_SHOWN = 5  # of many files
MAX_WAIT_S = 5.0  # for a clock that is behind the last tag


def promote(root: Path, model: str | None = None, *, stage: str = "prod") -> str:
    """Register the bundle of the present commit, unless it is, and give it a stage; return a line that says so.

    Raises:
        RegistryError: the work tree or a stage's output differs from the commit, the gate did not pass there, the
            ledger lacks a trial, the cache lacks a file, or another promotion is running.
        ValueError: the hot path is beyond a limit of `promote` in params.yaml, or was not measured on this machine.
    """
    with hold_lock(root):
        check_is_clean(root)
        name, path = find_model(root, model)
        past = read_histories(root, name)[name]
        head = Revision(root, run_git(root, "rev-parse", "HEAD").decode().strip())
        revision.check_gate(head, path)
        files = revision.read_cached(head, path)
        evidence = revision.collect_evidence(head, path, files)
        check_is_current(head, path)
        check_is_harvested(root)
        rule = config.call_with(LatencyRule, block=config.look_up(head.params, "promote"), name="promote")
        latency = latency_rule.check_latency(root, path, contract_sha256=evidence["contract"], rule=rule)
        registered = {event.commit: version for version, event in past.versions.items()}
        if (version := registered.get(head.commit)) is None:
            version = choose_version(past, head, files[contract.CONTRACT])
            registration = {"version": version, "evidence": evidence, "path": path}
            past = add_event(root, past, action=REGISTER, commit=head.commit, **registration)
        elif past.stages.get(stage) == version:
            raise RegistryError(f"{name} {version} is in {stage} already; commit the outputs of a new run first")
        promotion = {"version": version, "stage": stage, "latency": latency}
        past = add_event(root, past, action=PROMOTE, commit=head.commit, **promotion)
        promoted.publish(root, list(read_histories(root, name).values()))
    return f"{name} {version} is in {stage}: {PROMOTED / name / stage}; {latency_rule.render_latency(latency)}"


def rollback(root: Path, model: str | None = None, *, stage: str = "prod", to: str | None = None) -> str:
    """Give a stage its earlier version again, or the version `to` that it had; return a line that says so.

    Raises:
        RegistryError: there is no earlier version, or DVC's cache lacks its bundle.
    """
    with hold_lock(root):
        name, _ = find_model(root, model)
        past = read_histories(root, name)[name]
        version = choose_earlier(past, stage, to)
        earlier = past.versions[version]
        found = Revision(root, earlier.commit)
        compare_evidence(found, earlier)
        add_event(root, past, action=ROLLBACK, commit=earlier.commit, version=version, stage=stage)
        promoted.publish(root, list(read_histories(root, name).values()))
    return f"{name} {version} is in {stage} again: {PROMOTED / name / stage}"


def restore(root: Path) -> str:
    """Write the promoted bundles and the registry's file from the tags; return a line that says so."""
    with hold_lock(root):
        histories = read_histories(root)
        promoted.publish(root, list(histories.values()))
    return f"{PROMOTED} and {REGISTRY} are those of the tags"


def verify(root: Path) -> list[str]:
    """Return every difference between tags, commits, DVC's cache and the promoted files; none where all agree."""
    tags = history.list_tags(root)
    inspected = {name: history.inspect_history(tags, name) for name in history.list_models(tags)}
    histories = [past for past, _ in inspected.values()]
    faults = [fault for _, found in inspected.values() for fault in found]
    for past in histories:
        for event in past.versions.values():
            faults += catch_fault(compare_evidence, Revision(root, event.commit), event)
    faults += catch_fault(promoted.check_append_only, root, histories)
    for past, stage, folder in promoted.list_folders(histories):
        faults += catch_fault(compare_promoted, root, past, stage, folder)
    faults += [f"{path} is of no stage; run `{RESTORE}`" for path in promoted.find_unknown(root, histories)]
    text = (root / REGISTRY).read_text(encoding="utf-8") if (root / REGISTRY).exists() else None
    if text != promoted.render_registry(histories) and (histories or text is not None):
        faults.append(f"{REGISTRY} {'is missing' if text is None else 'is not that of the tags'}; run `{RESTORE}`")
    return faults


def list_events(root: Path) -> list[str]:
    """Return a line for each event of each model, and mark the present one of each stage."""
    lines = []
    for name, past in read_histories(root).items():
        present = find_present(past)
        for event in past.events:
            day = datetime.fromtimestamp(event.time, UTC).strftime("%Y-%m-%d %H:%M:%S")
            mark = "  (present)" if event.tag_id in present.values() else ""
            where = f"{event.action} {event.stage}" if event.stage else event.action
            lines.append(f"{name} {event.version}  {where:<16} {event.commit[:7]}  {day} UTC  {event.author}{mark}")
    return lines or ["nothing is registered"]


def find_present(past: History) -> dict[str, str]:
    """Return the tag of the last event of each stage."""
    return {event.stage: event.tag_id for event in past.events if event.stage is not None}


@contextmanager
def hold_lock(root: Path) -> Iterator[None]:
    """Hold the lock of the registry, which all work trees of the repository share; RegistryError where it is held."""
    folder = (root / run_git(root, "rev-parse", "--git-common-dir").decode().strip()).resolve()
    with (folder / "registry.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RegistryError("another promotion or rollback is running; wait until it ends") from None
        yield


def find_model(root: Path, model: str | None) -> tuple[str, str]:
    """Return the name of a model and the path of its bundle, as dvc.yaml has them; without a name, the only one."""
    content = yaml.load((root / "dvc.yaml").read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    bundles = {
        name: str(entry["path"])
        for name, entry in (content.get("artifacts") or {}).items()
        if Path(entry["path"]).parent == contract.BUNDLES
    }
    known = ", ".join(bundles) or "none"
    if model is None and len(bundles) != 1:
        raise RegistryError(f"dvc.yaml has the models {known} in `artifacts`; name one of them")
    name = next(iter(bundles)) if model is None else model
    if name not in bundles:
        raise RegistryError(f"there is no model {name}; dvc.yaml has {known} in `artifacts`; add it with its bundle")
    return name, bundles[name]


def read_histories(root: Path, *names: str) -> dict[str, History]:
    """Return the histories of all models with tags, and of `names`; RegistryError where one is not append-only."""
    models = sorted({*history.list_models(history.list_tags(root)), *names})
    found = {name: history.read_history(root, name) for name in models}
    promoted.check_append_only(root, list(found.values()))
    return found


def check_is_clean(root: Path) -> None:
    """Raise RegistryError where the work tree is not that of the commit."""
    changed = [line[3:] for line in run_git(root, "status", "--porcelain").decode().splitlines()]
    if changed:
        raise RegistryError(f"the work tree is dirty: {_shorten(changed)}; commit or stash first")


def check_is_current(head: Revision, path: str) -> None:
    """Raise RegistryError where a stage that bundle, gate or evidence depend on would run again."""
    stages = sorted({head.find_output(each).stage for each in (path, revision.gate_path(path), evidence_path(path))})
    with Repo(str(head.root)) as repository:
        stale = repository.status(targets=[f"{head.root / 'dvc.yaml'}:{stage}" for stage in stages], with_deps=True)
    if names := sorted(str(name).rpartition(":")[2] for name in stale):
        raise RegistryError(
            f"the gate did not pass on this very revision: {_shorten(names)} differ from dvc.lock; run "
            "`dvc checkout`, or `dvc repro` and commit"
        )


def check_is_harvested(root: Path) -> None:
    """Raise RegistryError where the ledger lacks a trial or a look that can be found."""
    ledger = Ledger.from_lines(read_lines(root / artifacts.LEDGER))
    if unknown := ledger.find_unknown(experiments.find_records(root)):
        raise RegistryError(f"the ledger lacks {len(unknown)} trials or looks; run `{HARVEST}`, `dvc repro`, commit")


def choose_version(past: History, head: Revision, content: bytes) -> str:
    """Return the next semantic version: `choose_bump` compares with the last one."""
    if not past.versions:
        return FIRST
    version, last = list(past.versions.items())[-1]
    earlier = Revision(head.root, last.commit)
    old = revision.read_cached(earlier, str(last.path))[contract.CONTRACT]
    bump = revision.choose_bump(earlier, head, (old, content))
    major, minor, patch = map(int, version.removeprefix("v").split("."))
    following = {"major": (major + 1, 0, 0), "minor": (major, minor + 1, 0), "patch": (major, minor, patch + 1)}
    return "v" + ".".join(map(str, following[bump]))


def choose_earlier(past: History, stage: str, to: str | None) -> str:
    """Return the version that a rollback of a stage leads to."""
    stack, had = past.list_stage(stage), {event.version for event in past.events if event.stage == stage}
    if to is None and len(stack) < 2:
        present = f"{stack[-1]} has none before it" if stack else "nothing was promoted to it"
        raise RegistryError(f"{past.model} has no earlier version in {stage}: {present}")
    version = stack[-2] if to is None else to
    if version not in had or version == stack[-1]:
        others = ", ".join(sorted(had - {stack[-1]} if stack else had)) or "none"
        raise RegistryError(f"{past.model}: {stage} cannot go back to {version}; it had {others} before")
    return version


def add_event(root: Path, past: History, **content: Any) -> History:
    """Add the tag of an event by GTO, and return the history with it; RegistryError where git refuses."""
    wait_for_clock(past)
    full = {"stage": None, "evidence": None, "path": None, "latency": None, "previous": past.head} | content
    where = f" to {full['stage']}" if full["stage"] else ""
    message = history.render_message(f"{full['action']} {past.model} {full['version']}{where}", **full)
    try:
        if full["action"] == REGISTER:
            gto.api.register(root, past.model, full["commit"], version=full["version"], message=message)
        else:
            options = {"version": full["version"], "message": message, "force": True}
            gto.api.assign(root, past.model, full["stage"], **options)
    except (GTOException, SCMError) as error:
        raise RegistryError(f"git cannot tag {past.model} {full['version']}: {' '.join(str(error).split())}") from error
    return history.read_history(root, past.model)


def wait_for_clock(past: History) -> None:
    """Wait until the next second after the last event: GTO orders tags by their seconds."""
    last = past.events[-1].time if past.events else 0
    if last - time.time() > MAX_WAIT_S:
        raise RegistryError(f"{past.events[-1].tag} is from {last - time.time():.0f} s in the future; set the clock")
    while int(time.time()) <= last:
        time.sleep(0.05)


def compare_evidence(found: Revision, event: Event) -> None:
    """Raise RegistryError where a registered revision, or its bundle in the cache, is not as its tag has it."""
    path, recorded = str(event.path), event.evidence or {}
    evidence = revision.collect_evidence(found, path, revision.read_cached(found, path))
    if different := [name for name in {*evidence, *recorded} if evidence.get(name) != recorded.get(name)]:
        raise RegistryError(f"{event.tag}: {', '.join(sorted(different))} are not those of commit {event.commit[:7]}")


def compare_promoted(root: Path, past: History, stage: str, folder: Path) -> None:
    """Raise RegistryError where the promoted bundle of a stage is not that of its version, byte for byte."""
    if different := promoted.find_differences(root / folder, promoted.read_promoted(root, past, stage)):
        fault = (
            f"{_shorten(different)} are not those of {past.stages[stage]}" if (root / folder).exists() else "missing"
        )
        raise RegistryError(f"{folder}: {fault}; run `{RESTORE}`")


def catch_fault(check: Callable[..., None], *arguments: Any) -> list[str]:
    """Return the message of a check that fails; none where it does not."""
    try:
        check(*arguments)
    except RegistryError as error:
        return [str(error)]
    return []


def _shorten(names: list[str]) -> str:
    more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    return ", ".join(names[:MAX_SHOWN]) + more


def parse_arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.deployment.registry",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("promote", "rollback"):
        command = commands.add_parser(name)
        command.add_argument("model", nargs="?", help="in `artifacts` of dvc.yaml; may be left out where there is one")
        command.add_argument("--stage", choices=STAGES, default="prod")
    commands.choices["rollback"].add_argument("--to", metavar="VERSION", help="that the stage had before, v1.0.0")
    for name in ("verify", "list", "restore"):
        commands.add_parser(name)
    return parser.parse_args()


def run(root: Path, arguments: Mapping[str, Any]) -> list[str]:
    """Return the lines that a command prints; RegistryError where it is refused, or verification fails."""
    command = arguments["command"]
    if command == "verify":
        if faults := verify(root):
            raise RegistryError("\n".join(faults))
        if not history.list_models(history.list_tags(root)):
            return ["nothing is registered"]
        return ["tags, revisions, DVC's cache and the promoted files agree"]
    if command == "list":
        return list_events(root)
    if command == "restore":
        return [restore(root)]
    if command == "promote":
        sys.stderr.write("comparing each stage with dvc.lock, which may take a minute\n")
        return [promote(root, arguments["model"], stage=arguments["stage"])]
    return [rollback(root, arguments["model"], stage=arguments["stage"], to=arguments["to"])]


def main() -> None:
    """Run the command that the command line names; exit 1 with its reason where it is refused."""
    arguments, root = vars(parse_arguments()), Path.cwd()
    try:
        if not (root / "dvc.yaml").exists():
            raise RegistryError(f"{root} has no dvc.yaml; run it where the repository begins")
        sys.stdout.write("\n".join([*run(root, arguments), ""]))
    except (ValueError, OSError, DvcException) as error:
        sys.exit(f"registry {arguments['command']}: {cli.describe_error(error)}")


if __name__ == "__main__":
    main()
