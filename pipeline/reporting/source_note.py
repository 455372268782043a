"""A note on results, by the source of their dataset."""

from pipeline import config

SIMULATED = ("simulated", "simulated_book")  # kinds of sources
OF_SIMULATED = "Of a simulated market: it says nothing about a real one."


def is_simulated(params: config.Block, dataset: str) -> bool:
    """Return whether the source of a dataset is of a kind that the repository generates, whatever its name."""
    source = config.look_up(params, f"datasets.{dataset}.source")
    return bool(config.look_up(params, f"sources.{source}.kind") in SIMULATED)


def note_source(params: config.Block, dataset: str) -> list[str]:
    """Return the paragraphs of a page on the source of a dataset: one where it is simulated, else none."""
    return [OF_SIMULATED] if is_simulated(params, dataset) else []
