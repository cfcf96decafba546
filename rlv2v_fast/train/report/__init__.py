"""The report of a run: one page, report.html, made from what the run's folder holds."""
