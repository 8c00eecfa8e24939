"""The report of an evaluation: `report.html` (one file, no network) and `report.md`; `summary.json` has the same figures."""

from eval.reporting.charts import report_charts
from eval.reporting.write import report_directory, write_report

__all__ = ["report_charts", "report_directory", "write_report"]
