"""Where events of order books come from: every module of the package is a source, but exports."""

SOURCES = "pipeline.orderbook.sources"
NOT_SOURCES = ("export",)
