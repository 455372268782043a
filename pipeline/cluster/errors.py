"""The error of a cluster."""

from pipeline.digests import ArtifactError


class ClusterError(ArtifactError):
    """A cluster that cannot run the fits; the message says what to do, and a command prints it as its only line."""
