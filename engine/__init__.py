"""The ground that all stages stand on: data, models, scoring, runs. Imports chatml and recipes, no stage."""
