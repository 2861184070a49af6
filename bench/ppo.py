"""One step of PPO beside TRL 1.12.0's PPOTrainer, the last release that had one: steps a second, memory, phases.

Both sides get the same random weights, prompts, batch, epochs (4, of one minibatch), type and threads, and run in turn.
TRL runs in a virtual environment that this benchmark makes: our packages, with trl 1.12.0 in front of them. For
fairness its two gc.collect() calls a step are taken out, both use the fused AdamW (TRL's default), and ours has no
pretraining text, which TRL does not support, top-p 1 and one response a prompt. With `fixed` lengths nothing ends a
response; else the end token is made likely enough for responses to end after 16 to 128 tokens, half of them by some 40.

The floor is the time that the operations of all matrix products would take at the measured speed of a large one.
"""

import json
import subprocess
import sys
import time
import venv
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.race import alone, race
from bench.row import Figures, Row, compare

TRL, EPOCHS, STEPS, WARM = "1.12.0", 4, 3, 1
# The end token is impossible before this many tokens of a response.
SHORTEST_RESPONSE = 16
PHASES = ("sample_seconds", "score_seconds", "learn_seconds", "floor_seconds")


@dataclass(frozen=True)
class Case:
    """One kind of step; the shapes are of all four models."""

    vocabulary: int
    width: int
    intermediate: int
    layers: int
    heads: int
    responses: int
    dtype: str
    fixed: bool = True
    bar: float = 1.0


CASES = {
    "a": Case(8000, 256, 736, 4, 4, 16, "float32", bar=1.15),
    "b": Case(151936, 128, 384, 2, 4, 8, "float32", bar=4),
    "c": Case(8000, 256, 736, 4, 4, 16, "float32", fixed=False, bar=2),
    "a, bf16": Case(8000, 256, 736, 4, 4, 16, "bfloat16"),
    "b, bf16": Case(151936, 128, 384, 2, 4, 8, "bfloat16"),
}


def rows(data: Path, folder: Path, rounds: int) -> list[Row]:
    python = str(environment(folder))
    return [row for name in CASES for row in compared(name, folder, rounds, python)]


def compared(name: str, folder: Path, rounds: int, python: str) -> list[Row]:
    """The rows of one case."""
    models = str(make_models(name, folder))
    given = {"case": asdict(CASES[name]), "models": models}
    sides = {
        "ours": ("bench.ppo:ours", given),
        "trl": ("bench.ppo:theirs", given | {"python": python}),
    }
    found = race(sides, rounds)
    last = found["ours"][-1]
    print("  " + ", ".join(f"{phase.replace('_seconds', '')} {last[phase]:.2f} s" for phase in PHASES), flush=True)
    kept = {side: [{k: v for k, v in f.items() if k not in PHASES} for f in found[side]] for side in found}
    title = f"PPO step ({name})"
    return [compare(title, f"TRL {TRL}'s PPOTrainer", "steps_per_hour", kept["ours"], kept["trl"], CASES[name].bar)]


def environment(folder: Path) -> Path:
    """The Python of the virtual environment with TRL's PPO, made at the first call."""
    home = folder.resolve() / f"trl-{TRL}"
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        venv.create(home, clear=True, with_pip=False)
        inside = next((home / "lib").glob("python*")) / "site-packages"
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--target",
             str(inside), f"trl=={TRL}"], check=True,
        )  # fmt: skip
        ours = next(path for path in sys.path if path.endswith("site-packages"))
        (inside / "ours.pth").write_text(ours + "\n")  # behind what is installed here
        (home / "ready").touch()
    return python


def make_models(name: str, folder: Path) -> Path:
    """Random policy and reward model of a case with a tokenizer of bytes, made at the first call."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from config.sections import Model
    from engine.models.loading import new_scalar
    from engine.models.saving import save_model
    from engine.models.tokenizer import load_tokenizer

    case, home = CASES[name], folder.resolve() / f"ppo-{name.split(',')[0]}"
    if (home / "ready").exists():
        return home
    tokenizer = bytes_tokenizer()
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=case.vocabulary, hidden_size=case.width, intermediate_size=case.intermediate,
        num_hidden_layers=case.layers, num_attention_heads=case.heads, num_key_value_heads=case.heads,
        tie_word_embeddings=False,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(home / "policy")
    tokenizer.save_pretrained(home / "policy")
    section = Model(path=str(home / "policy"), dtype="float32")
    prepared = load_tokenizer(section.path)
    save_model(new_scalar(section.path, section, prepared, seed=1), prepared, home / "reward")
    (home / "ready").touch()
    return home


def bytes_tokenizer() -> Any:
    """A tokenizer whose tokens are bytes, and ChatML's."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from chatml import END_OF_TEXT, IM_END, IM_START

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=len(alphabet), initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([], trainer)
    backend.add_special_tokens([AddedToken(token, special=True) for token in (END_OF_TEXT, IM_START, IM_END)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=IM_END, pad_token=END_OF_TEXT)


def prompts_of(case: Case) -> list[list[int]]:
    """Token ids: 64 each, or between 16 and 128."""
    lengths = [64 if case.fixed else 16 + 112 * at // (case.responses - 1) for at in range(case.responses)]
    return [[(7 * at + 13 * t) % 250 for t in range(length)] for at, length in enumerate(lengths)]


def make_ending(model: Any, end: int) -> None:
    """While generating, give the end token a probability of about 1/40 at every position from the 16th on."""
    import math

    import torch

    plain, forward, at = model.lm_head.forward, model.forward, [0]

    def counted(input_ids: torch.Tensor, **rest: Any) -> Any:
        at[0] = at[0] + 1 if input_ids.shape[1] == 1 else 1  # which token of the response this pass is for
        return forward(input_ids=input_ids, **rest)

    def ending(hidden: torch.Tensor) -> torch.Tensor:
        logits = plain(hidden)
        if hidden.shape[1] == 1 and not torch.is_grad_enabled():  # only the cost matters here
            logits[..., end] = logits.logsumexp(-1) - math.log(40) if at[0] >= SHORTEST_RESPONSE else -math.inf
        return logits

    model.forward, model.lm_head.forward = counted, ending


def theirs(case: dict[str, Any], models: str, python: str) -> Figures:
    """Run TRL's side in its own environment."""
    return alone("bench.ppo_trl:steps", {"case": case, "models": models}, python)


def ours(case: dict[str, Any], models: str) -> Figures:
    """Run our side: the stage's own phases on its own models."""
    import torch

    from bench.clock import begin_peak
    from config import load
    from engine.data.prompt_rows import PromptRow
    from engine.dist import devices
    from engine.dist.ranks import start_accelerator
    from engine.generation.engines import OwnEngine
    from engine.generation.request import GenerationRequest, Response
    from engine.generation.sampling import sample
    from engine.models.tokenizer import load_tokenizer
    from ppo.assess import assess
    from ppo.models import load_models
    from ppo.recipe import PPO
    from ppo.reward_mix import RewardMix
    from ppo.rollout import RolloutSampler
    from ppo.update import Updater

    work = Case(**case)
    recipe = load(PPO, Path("recipes/tiny/ppo.yaml"), [
        f"model.path={models}/policy", "reward.mix={}", f"reward.path={models}/reward", "data.pretrain=null",
        "ppo.pretrain_coef=0", "ppo.value_warmup_steps=0", f"ppo.epochs={EPOCHS}",
        "ppo.minibatches=1", f"ppo.queries_per_step={work.responses}", "ppo.responses_per_query=1",
        "ppo.fused_adamw=true",
        "sampling.top_p=1.0", f"sampling.max_new_tokens={64 if work.fixed else 128}", f"model.dtype={work.dtype}",
    ])  # fmt: skip
    accelerator = start_accelerator(0, recipe.model, [], models)
    tokenizer = load_tokenizer(recipe.model.path)
    models = load_models(recipe, tokenizer, accelerator)
    prompts = [PromptRow(ids, [], {}) for ids in prompts_of(work)]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    policy = accelerator.unwrap_model(models.policy)
    if not work.fixed:
        make_ending(policy, end)

    class FixedLengthEngine(OwnEngine):
        """Nothing ends a response before its length; all count as finished, so that all are scored."""

        def generate(self, request: GenerationRequest) -> list[list[Response]]:
            stops = [-1] if work.fixed else [end]
            with accelerator.autocast():
                groups = sample(policy, request, recipe.sampling, end=end, stops=stops)
            return [[Response(r.tokens, True, r.logprobs) for r in group] for group in groups]

    engine = FixedLengthEngine(policy, recipe.sampling, end, accelerator=accelerator)
    sampler = RolloutSampler(
        engine, prompts, seed=0, queries_per_step=len(prompts), responses_per_query=1, record_supports=False
    )
    updater = Updater(models, recipe.ppo, temperature=1.0, seed=0, pretrain=None, accelerator=accelerator)
    mix = RewardMix(recipe.reward.parts, "mean")
    seconds = dict.fromkeys(PHASES, 0.0)
    before = begin_peak()
    for step in range(1, 1 + WARM + STEPS):
        at = [time.perf_counter()]
        rollout = sampler.sample(step)
        at.append(time.perf_counter())
        assessment = assess(models, rollout, recipe.ppo, 1.0, mix, 0.04)
        at.append(time.perf_counter())
        updater.update(rollout, assessment, step)
        at.append(time.perf_counter())
        if step > WARM:
            for phase, start, stop in zip(PHASES, at, at[1:], strict=False):
                seconds[phase] += (stop - start) / STEPS
    top, trained = devices.peak_memory(), [p for m in (models.policy, models.value) for p in m.parameters()]
    seconds["floor_seconds"] = floor(work, rollout.prompts, rollout.tokens, getattr(torch, work.dtype))
    taken = sum(seconds[phase] for phase in PHASES[:3])
    # Above weights, gradients and AdamW's two moments, all float32.
    above = top - before - 12 * sum(p.numel() for p in trained)
    return {"steps_per_hour": 3600 / taken, "peak_mib": max(above, 0) / 2**20, **seconds}


def floor(case: Case, prompts: list[list[int]], answers: list[list[int]], dtype: Any) -> float:
    """Return the seconds of one step's matrix products, without attention's, at the speed of a large product."""
    from plan.work import measured_flops

    layer = 4 * case.width**2 + 3 * case.width * case.intermediate
    total, written = sum(map(len, prompts)) + sum(map(len, answers)), sum(map(len, answers))
    body, head = 2 * case.layers * layer * total, 2 * case.width * case.vocabulary * written
    forward = body + head  # one pass of the policy; a scalar model's is the body alone
    sampling, scoring = forward, 2 * forward + 2 * body
    learning = EPOCHS * 3 * (forward + body)
    return (sampling + scoring + learning) / measured_flops(2048, dtype)


if __name__ == "__main__":
    # python -m bench.ppo CASE [ROUNDS]: one case alone.
    from rich.console import Console

    from bench.row import table

    home = Path("runs/bench")
    found = compared(sys.argv[1], home, int(sys.argv[2]) if len(sys.argv) > 2 else 1, str(environment(home)))
    Console().print(table(found))
    print(json.dumps([row.as_json() for row in found]))
