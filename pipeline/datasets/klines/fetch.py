"""Where klines come from: every module of the package is a source, but the schema and the simulation's hidden part."""

SOURCES = "pipeline.market"
NOT_SOURCES = ("bars", "simulated_moves")
