"""Run a stage as a command."""

import argparse
import inspect
import logging
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from pipeline import has_avx2
from pipeline.config import ParamsError, check_name
from pipeline.digests import ArtifactError

log = logging.getLogger(__name__)


def run(stage: Callable[..., None]) -> None:
    """Call `stage` with its arguments from the command line; an input error is one message and exit status 1.

    The message of an error in params.yaml names the key, that of a missing or damaged file the command that writes it;
    other messages are followed by the line that raised them.
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
    except (ValueError, OSError) as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        sys.exit(f"{command}: {error}\n  (raised at {where.filename}:{where.lineno})")
