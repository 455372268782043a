"""Run a stage as a command."""

import argparse
import inspect
import logging
import os
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import TypeGuard

from pipeline import artifacts, has_avx2
from pipeline.config import ParamsError, check_name
from pipeline.digests import ArtifactError

log = logging.getLogger(__name__)

INTERRUPTED = 130  # the exit status of a command that Ctrl-C ends, by convention


def run(stage: Callable[..., None]) -> None:
    """Call `stage` with its arguments from the command line; an error of input or machine exits with status 1.

    The message of an error in params.yaml names the key, that of the disk the file, and that of a missing or damaged
    file the command that writes it. Other messages of input are followed by the line that raised them. Ctrl-C exits
    with status 130.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if not has_avx2():
        log.warning("this CPU has no AVX2: results agree with those of other machines within rounding, not to the byte")
    parser = argparse.ArgumentParser(description=inspect.getdoc(stage))
    for name in inspect.signature(stage).parameters:
        parser.add_argument(name)
    arguments = vars(parser.parse_args())
    command = " ".join([Path(sys.argv[0]).stem, *arguments.values()])
    try:
        for name, value in arguments.items():
            for part in value.split("."):
                check_name(part, owner=f"there is no {name} {value!r}")
        stage(**arguments)
    except (ParamsError, ArtifactError) as error:
        sys.exit(f"{command}: {error}")
    except (BrokenExecutor, MemoryError) as error:
        sys.exit(
            f"{command}: {' '.join(str(error).split())}; where memory ran out, set PIPELINE_WORKERS=1; then start "
            "again: nets and agents go on from their checkpoints"
        )
    except KeyboardInterrupt:
        log.error("%s: interrupted; start again: nets and agents go on from their checkpoints", command)
        sys.exit(INTERRUPTED)
    except (ValueError, OSError) as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        raised = "" if is_disk_error(error) else f"\n  (raised at {where.filename}:{where.lineno})"
        sys.exit(f"{command}: {describe_error(error)}{raised}")


def describe_error(error: Exception) -> str:
    """Return the message of an error; of the disk, what happened to which file and what to do about it."""
    if not is_disk_error(error):
        return str(error)
    what, remedy = os.strerror(error.errno or 0), artifacts.DISK_ERRORS[error.errno or 0]
    return f"{error.filename}: {what}; {remedy}, then start again: what was finished is not lost"


def is_disk_error(error: Exception) -> TypeGuard[OSError]:
    """Return whether an error is one of `artifacts.DISK_ERRORS`."""
    return isinstance(error, OSError) and error.errno in artifacts.DISK_ERRORS
