"""Records to tables, figures, intervals and pages; nothing here runs a model.

``write_report(run_folder)`` makes the page; its input is described in :mod:`echelon.report.html`.
"""

from echelon.report.ablation import ablation_table
from echelon.report.html import write_report
from echelon.report.intervals import clopper_pearson, fisher_p, paired_p
from echelon.report.picture import headline_picture
from echelon.report.tables import (
    check_markdown,
    markdown_table,
    read_section,
    summary,
    update_markdown,
    write_section,
)

__all__ = [
    "ablation_table",
    "check_markdown",
    "clopper_pearson",
    "fisher_p",
    "headline_picture",
    "markdown_table",
    "paired_p",
    "read_section",
    "summary",
    "update_markdown",
    "write_report",
    "write_section",
]
