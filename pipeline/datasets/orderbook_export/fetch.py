"""Where exports of order books come from: a folder that a manifest describes."""

SOURCES = "pipeline.orderbook.sources"
NOT_SOURCES = ("l3", "lobster", "simulated_book")  # they have events
