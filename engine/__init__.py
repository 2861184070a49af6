"""The ground that all stages stand on: data, models, runs. Imports chatml and recipes, no stage."""
