"""export_with_parity <model>: export the final model and compare its graph with it, in one process."""

from pipeline import cli
from pipeline.stages import export, parity


def main(model: str) -> None:
    """Export a model as `export` does, and compare the graph with it as `parity` does."""
    export.main(model)
    parity.main(model)


if __name__ == "__main__":
    cli.run(main)
