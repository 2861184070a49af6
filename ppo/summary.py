"""The summary that PPO prints before its first step."""

from engine.data.prompt_rows import PromptRows
from engine.run.summary import PLAN_HINT, size, summary_text, template_text
from ppo.heldout import HeldOut
from ppo.models import Models
from ppo.recipe import PPO


def ppo_summary(recipe: PPO, models: Models, prompts: PromptRows, heldout: HeldOut | None) -> str:
    """Return the summary of a run that is about to begin."""
    ppo, sampling, watch = recipe.ppo, recipe.sampling, recipe.watch
    responses = ppo.queries_per_step * ppo.responses_per_query
    lines = {"data": f"{len(prompts):,} prompts"}
    if heldout is not None:
        kept = f", the best checkpoint by {watch.keep_best} is kept" if watch.keep_best else ""
        ends = f", the run ends after {watch.patience} without a better one" if watch.patience else ""
        lines["held out"] = f"{len(heldout.rows):,} prompts, measured every {watch.every:,} steps{kept}{ends}"
    rates = {"policy": ppo.policy_learning_rate, "value model": ppo.value_learning_rate}
    trained = dict(zip(rates, models.trained.values(), strict=False))
    counts = {
        name: sum(size(weight) for weight in model.parameters() if weight.requires_grad)
        for name, (model, _) in trained.items()
    }
    passes, most = ppo.queries_per_step * ppo.steps / len(prompts), responses * ppo.steps * sampling.max_new_tokens
    lines |= {
        "steps": f"{ppo.steps:,}, of which the first {ppo.value_warmup_steps:,} train the value model only; "
        f"{responses:,} responses a step, {passes:.3g} passes over the prompts",
        "learning rate": ", ".join(f"{name} {rates[name]:g}" for name in trained) + f"; {ppo.lr_scheduler_type}",
        "weights": ", ".join(f"{name} {count:,} trained" for name, count in counts.items()),
        "template": template_text(recipe.chatml),
        "cost": f"up to {most:,} generated tokens; {PLAN_HINT}",
    }
    return summary_text(recipe.run.dir, lines)
