"""The report of an evaluation: write report.html and plots/ from its files."""
