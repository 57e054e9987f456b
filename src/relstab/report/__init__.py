"""The report of a run: one HTML page, made from tables and figures alone, that needs no network and no other file.

:mod:`relstab.report.words` says in sentences what the run measured and found; :mod:`relstab.report.page` puts it on a page, and
:mod:`relstab.report.summary` a few lines of it into the terminal.
"""

from relstab.report.page import render_report
from relstab.report.summary import summary_lines

__all__ = ["render_report", "summary_lines"]
