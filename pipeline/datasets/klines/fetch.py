"""Where klines come from: every module of the package is a source, but the schema that all share."""

SOURCES = "pipeline.market"
NOT_SOURCES = ("bars",)
