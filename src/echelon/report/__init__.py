"""Records to tables, figures, intervals and pages; nothing here runs a model.

``write_report(run_folder)`` makes the page; its input is described in :mod:`echelon.report.html`.
"""

from echelon.report.ablation import ablation_table
from echelon.report.html import write_report
from echelon.report.intervals import clopper_pearson, fisher_p, paired_p
from echelon.report.pages import Page, read_section, write_section
from echelon.report.picture import headline_picture
from echelon.report.tables import markdown_table, summary

__all__ = [
    "Page",
    "ablation_table",
    "clopper_pearson",
    "fisher_p",
    "headline_picture",
    "markdown_table",
    "paired_p",
    "read_section",
    "summary",
    "write_report",
    "write_section",
]
