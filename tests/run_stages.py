"""Run as a program in a small repository: every stage in this one process, recorded as `dvc repro` records them.

A process for each stage would import for seconds what it then runs for less. The code is that of the repository around
this file: what numba compiles serves the tests as well. The names of all modules that the stages loaded are in LOADED.
"""

import importlib
import sys
from pathlib import Path

import networkx
from dvc.repo import Repo

LOADED = Path(".dvc/tmp/loaded_modules.txt")


def list_commands(repo: Repo) -> list[str]:
    """Return the commands of all stages, each after those of the stages that it depends on."""
    order = networkx.lexicographical_topological_sort(repo.index.graph.reverse(), key=lambda stage: stage.addressing)
    return [stage.cmd for stage in order]


if __name__ == "__main__":
    with Repo() as repo:
        commands = list_commands(repo)
    for command in commands:
        _, _, module, key = command.split()  # python -m <module> <key>
        importlib.import_module(module).main(key)
    LOADED.write_text("\n".join(sys.modules))
    with Repo() as repo:
        repo.commit(force=True)
