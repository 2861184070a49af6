"""Data as a stage sees it: conversations with what is trained on marked, and their figures."""
