"""What the stages made, measured, and the report on it."""
