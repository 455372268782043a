"""The page of a report: one HTML file without external references, the same bytes for the same evidence."""

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Ge, Interval
from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from pipeline.reporting.tear_sheet import bundle_page, dataset_page, holdout_page, model_page, position_page
from pipeline.reporting.tear_sheet.blocks import Figure, Note, Section
from pipeline.reporting.tear_sheet.evidence import DatasetEvidence
from pipeline.reporting.tear_sheet.script import SCRIPT
from pipeline.reporting.tear_sheet.style import STYLE
from pipeline.reporting.tear_sheet.templates import TEMPLATES
from pipeline.reporting.tear_sheet.verdict import make_verdict

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"  # a browser refuses any network
IMAGES = "; img-src data:"  # those whose bytes are in the page


def render_report(
    evidence: DatasetEvidence,
    *,
    rolling_days: Annotated[int, Ge(2)],
    tail_share: Annotated[float, Interval(gt=0, lt=0.5)],
) -> str:
    """Return the report of a dataset as one HTML page, the verdict first.

    Args:
        evidence: the results of the stages before.
        rolling_days: window of the rolling Sharpe ratios, in days that have bars.
        tail_share: share of the bars with a return that each tail of the distribution holds.
    """
    charts = position_page.draw_positions(evidence.models, evidence.bars)
    models = [
        model_page.make_section(m, charts[m.name], rolling_days=rolling_days, tail_share=tail_share)
        for m in evidence.models
    ]
    links = Note("Models, best first: " + (", ".join(model.name for model in evidence.models) or "none") + ".")
    sections = [
        Section("verdict", "Verdict", [make_verdict(evidence)]),
        dataset_page.make_leaderboard(evidence),
        dataset_page.make_data(evidence),
        dataset_page.make_guards(evidence),
        dataset_page.make_folds(evidence),
        Section("models", "Models", [links]),
        *models,
        dataset_page.make_overfitting(evidence),
        holdout_page.make_holdout(evidence),
        dataset_page.make_signals(evidence),
        bundle_page.make_bundle(evidence),
    ]
    return render_page(f"{evidence.dataset}: report", sections)


def render_page(title: str, sections: Sequence[Section]) -> str:
    """Return sections as one HTML page; every text is escaped."""
    environment = Environment(
        loader=DictLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    has_zoom = any(isinstance(block, Figure) and block.is_wide for section in sections for block in section.blocks)
    has_image = any(
        isinstance(block, Figure) and "<img" in block.svg for section in sections for block in section.blocks
    )
    policy = POLICY + IMAGES * has_image
    content = {"title": title, "sections": sections, "policy": policy, "style": Markup(STYLE)}
    return environment.get_template("page").render(content, script=Markup(SCRIPT) if has_zoom else "") + "\n"
