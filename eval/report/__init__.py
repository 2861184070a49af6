"""The report of an evaluation: report.html and plots/, made of its files."""
