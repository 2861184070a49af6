"""The keys of SFT and reward recipes that choose the best checkpoint by data.eval and stop a run early."""

from dataclasses import dataclass

from config.schema import RecipeError, Section, number

# Fields of TRL's configurations that `keep_best` decides, and those that it sets to evaluate at every checkpoint.
BEST_MODEL_FIELDS = ("load_best_model_at_end", "metric_for_best_model", "greater_is_better")
EVALUATION_FIELDS = ("eval_strategy", "eval_steps", "eval_delay")


@dataclass(frozen=True)
class BestModel(Section):
    keep_best: bool = False
    """save the checkpoint that is best on data.eval (by loss in stage sft, by accuracy in stage reward) as the model,
    instead of the last one"""
    patience: int | None = number(None, least=1, grows=True)
    """early stopping: end the run after this many checkpoints in a row that are no better than the best; null: never"""

    def check(self, key: str) -> None:
        if self.patience is not None and not self.keep_best:
            raise RecipeError(
                f"{key}.patience={self.patience} counts checkpoints that are no better than the best, which "
                f"{key}.keep_best=false does not look for; set {key}.keep_best=true, or {key}.patience=null",
                key=f"{key}.patience",
            )

    def check_evaluates(self, key: str, evaluates: bool) -> None:
        """Raise RecipeError if the best checkpoint is to be kept and there is no evaluation data."""
        if self.keep_best and not evaluates:
            raise RecipeError(
                f"{key}.keep_best is true, but there is nothing to evaluate on; give data.eval, or set "
                f"{key}.keep_best=false",
                key=f"{key}.keep_best",
            )

    def owned_fields(self, key: str) -> dict[str, str]:
        """Return field of TRL's configuration -> our key that decides it; `key` is the section's name."""
        owned = dict.fromkeys(BEST_MODEL_FIELDS, f"{key}.keep_best")
        return owned | (dict.fromkeys(EVALUATION_FIELDS, "run.save_steps") if self.keep_best else {})

    def fixed_keys(self, key: str) -> dict[str, str]:
        """Return key -> reason, for the keys that may not change when a run resumes (`Recipe.fixed_keys`)."""
        return {"run.save_steps": f"{key}.keep_best chooses among the checkpoints"} if self.keep_best else {}
