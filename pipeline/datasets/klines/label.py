"""The labels of klines."""

from pipeline.labels import describe_target, make_labels

__all__ = ["describe_target", "make_labels"]
