"""validate_export <name>: check an export of order books in data/exports/<name>, and report on it."""

from pipeline import artifacts, cli
from pipeline.orderbook.exports.files import EXPORTS
from pipeline.orderbook.validate_export import log_findings, validate_export


class ExportError(ValueError):
    """An export with faults."""


def main(export: str) -> None:
    """Check the export of that name, write the report, and raise where it has faults."""
    report = validate_export(EXPORTS / export)
    artifacts.write_json(artifacts.report_path("validate_export", export), report)
    log_findings(report)
    if report["faults"]:
        raise ExportError(f"{len(report['faults'])} faults; the first is {report['faults'][0]}")


if __name__ == "__main__":
    cli.run(main)
