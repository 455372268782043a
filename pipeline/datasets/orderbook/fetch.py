"""Where events of order books come from: every module of the package is a source."""

SOURCES = "pipeline.orderbook.sources"
NOT_SOURCES = ()
