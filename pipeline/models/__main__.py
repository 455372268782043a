"""python -m pipeline.models [plugin]: print the catalogue of models, or one plugin in detail."""

import argparse
import sys

from pipeline import config
from pipeline.models import catalogue


def main() -> None:
    """Print every plugin, what it predicts and needs, and its hyperparameters; an unknown plugin is one line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.models", description=main.__doc__)
    parser.add_argument("plugin", nargs="?", help="print this one in detail, such as lightgbm or trees.lightgbm")
    plugin = parser.parse_args().plugin
    try:
        entries = catalogue.list_entries(config.load_params())
        chosen = catalogue.select_entries(entries, plugin) if plugin else entries
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    text = "\n".join(map(catalogue.format_details, chosen)) if plugin else catalogue.format_overview(chosen)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
