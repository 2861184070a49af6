"""The ground that all stages stand on: data, models, what scores answers, runs. Imports chatml and recipes, no stage."""
