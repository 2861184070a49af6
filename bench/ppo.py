"""A PPO step compared with PPOTrainer of TRL 1.12.0, the last release that has one: speed, memory, phases.

Both sides get the same random weights, prompts, batch, epochs (4, of one minibatch), dtype and threads, and alternate.
TRL runs in a virtual environment that this benchmark creates: our packages, with trl 1.12.0 before them in the path.
For fairness its two gc.collect() calls per step are removed, both use the fused AdamW (TRL's default), and ours runs
with top-p 1, one response per prompt and without pretraining text, which TRL does not support. With `fixed` lengths no
response ends early. Otherwise the probability of the end token is raised so that responses have 16 to 128 tokens and
half of them have ended after about 40.

The floor is the time of all matrix products of the step at the measured speed of a large one.
"""

import json
import subprocess
import sys
import time
import venv
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.race import race, run_side
from bench.row import Figures, Row, compare

TRL_VERSION, EPOCHS, STEPS, WARMUP_STEPS = "1.12.0", 4, 3, 1
# Responses have at least this many tokens.
SHORTEST_RESPONSE = 16
PHASES = ("sample_seconds", "score_seconds", "learn_seconds", "floor_seconds")


@dataclass(frozen=True)
class Case:
    """One benchmark case; all four models have the same shape."""

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
    python = str(trl_environment(folder))
    return [row for name in CASES for row in compare_case(name, folder, rounds, python)]


def compare_case(name: str, folder: Path, rounds: int, python: str) -> list[Row]:
    """Measure one case and return its row."""
    models = str(make_models(name, folder))
    given = {"case": asdict(CASES[name]), "models": models}
    sides = {
        "ours": ("bench.ppo:ours", given),
        "trl": ("bench.ppo:trl", given | {"python": python}),
    }
    found = race(sides, rounds)
    last = found["ours"][-1]
    print("  " + ", ".join(f"{phase.replace('_seconds', '')} {last[phase]:.2f} s" for phase in PHASES), flush=True)
    kept = {side: [{k: v for k, v in f.items() if k not in PHASES} for f in found[side]] for side in found}
    title = f"PPO step ({name})"
    return [
        compare(title, f"TRL {TRL_VERSION}'s PPOTrainer", "steps_per_hour", kept["ours"], kept["trl"], CASES[name].bar)
    ]


def trl_environment(folder: Path) -> Path:
    """Return the Python of a virtual environment with TRL's PPO; the first call creates it."""
    home = folder.resolve() / f"trl-{TRL_VERSION}"
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        venv.create(home, clear=True, with_pip=False)
        inside = next((home / "lib").glob("python*")) / "site-packages"
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--target",
             str(inside), f"trl=={TRL_VERSION}"], check=True,
        )  # fmt: skip
        ours = next(path for path in sys.path if path.endswith("site-packages"))
        (inside / "ours.pth").write_text(ours + "\n")  # after trl in the path
        (home / "ready").touch()
    return python


def make_models(name: str, folder: Path) -> Path:
    """Return the folder of a case's random policy and reward model with a byte tokenizer; the first call writes it."""
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
    """Return a tokenizer whose tokens are the 256 bytes and ChatML's control tokens."""
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


def make_prompts(case: Case) -> list[list[int]]:
    """Return the token ids of the prompts: 64 each for fixed lengths, otherwise 16 to 128."""
    lengths = [64 if case.fixed else 16 + 112 * at // (case.responses - 1) for at in range(case.responses)]
    return [[(7 * at + 13 * t) % 250 for t in range(length)] for at, length in enumerate(lengths)]


def make_responses_end(model: Any, end: int) -> None:
    """Patch `model`: in generation the end token gets a probability of about 1/40 from the 16th position on."""
    import math

    import torch

    plain, forward, at = model.lm_head.forward, model.forward, [0]

    def counted(input_ids: torch.Tensor, **rest: Any) -> Any:
        at[0] = at[0] + 1 if input_ids.shape[1] == 1 else 1  # position in the response of the next token
        return forward(input_ids=input_ids, **rest)

    def ending(hidden: torch.Tensor) -> torch.Tensor:
        logits = plain(hidden)
        if hidden.shape[1] == 1 and not torch.is_grad_enabled():  # only while decoding
            logits[..., end] = logits.logsumexp(-1) - math.log(40) if at[0] >= SHORTEST_RESPONSE else -math.inf
        return logits

    model.forward, model.lm_head.forward = counted, ending


def trl(case: dict[str, Any], models: str, python: str) -> Figures:
    """Run TRL's side, in its own environment."""
    return run_side("bench.ppo_trl:steps", {"case": case, "models": models}, python)


def ours(case: dict[str, Any], models: str) -> Figures:
    """Run our side: the phases of a PPO step as the stage runs them."""
    import torch

    from bench.clock import reset_peak_memory
    from chatml import control
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
    loaded = load_models(recipe, tokenizer, accelerator)
    prompts = [PromptRow(ids, [], {}) for ids in make_prompts(work)]
    end = control(tokenizer).im_end
    policy = accelerator.unwrap_model(loaded.policy)
    if not work.fixed:
        make_responses_end(policy, end)

    class FixedLengthEngine(OwnEngine):
        """With fixed lengths no token ends a response. All responses count as finished, so all are scored."""

        def generate(self, request: GenerationRequest) -> list[list[Response]]:
            stops = [-1] if work.fixed else [end]
            with accelerator.autocast():
                groups = sample(policy, request, recipe.sampling, end=end, stops=stops)
            return [[Response(r.tokens, True, r.logprobs) for r in group] for group in groups]

    engine = FixedLengthEngine(policy, recipe.sampling, end, accelerator=accelerator)
    sampler = RolloutSampler(
        engine, prompts, seed=0, queries_per_step=len(prompts), responses_per_query=1, record_supports=False
    )
    updater = Updater(loaded, recipe.ppo, temperature=1.0, seed=0, pretrain=None, accelerator=accelerator)
    mix = RewardMix(recipe.reward.parts, "mean")
    seconds = dict.fromkeys(PHASES, 0.0)
    before = reset_peak_memory()
    for step in range(1, 1 + WARMUP_STEPS + STEPS):
        at = [time.perf_counter()]
        rollout = sampler.sample(step)
        at.append(time.perf_counter())
        assessment = assess(loaded, rollout, recipe.ppo, 1.0, mix, 0.04)
        at.append(time.perf_counter())
        updater.update(rollout, assessment, step)
        at.append(time.perf_counter())
        if step > WARMUP_STEPS:
            for phase, start, stop in zip(PHASES, at, at[1:], strict=False):
                seconds[phase] += (stop - start) / STEPS
    top, trained = devices.peak_memory(), [p for m, _ in loaded.trained.values() for p in m.parameters()]
    seconds["floor_seconds"] = matmul_seconds(work, rollout.prompts, rollout.tokens, getattr(torch, work.dtype))
    taken = sum(seconds[phase] for phase in PHASES[:3])
    # Without gradients and AdamW's two moments, 12 bytes per parameter in float32.
    above = top - before - 12 * sum(p.numel() for p in trained)
    return {"steps_per_hour": 3600 / taken, "peak_mib": max(above, 0) / 2**20, **seconds}


def matmul_seconds(case: Case, prompts: list[list[int]], answers: list[list[int]], dtype: Any) -> float:
    """Return the seconds of a step's matrix products, without those of attention, at the speed of a large product."""
    from plan.work import measured_flops

    layer = 4 * case.width**2 + 3 * case.width * case.intermediate
    total, written = sum(map(len, prompts)) + sum(map(len, answers)), sum(map(len, answers))
    body, head = 2 * case.layers * layer * total, 2 * case.width * case.vocabulary * written
    forward = body + head  # one pass of the policy; a pass of a scalar model is the body only
    sampling, scoring = forward, 2 * forward + 2 * body
    learning = EPOCHS * 3 * (forward + body)
    return (sampling + scoring + learning) / measured_flops(2048, dtype)


if __name__ == "__main__":
    # python -m bench.ppo CASE [ROUNDS]: run one case.
    from rich.console import Console

    from bench.row import table

    home = Path("runs/bench")
    found = compare_case(sys.argv[1], home, int(sys.argv[2]) if len(sys.argv) > 2 else 1, str(trl_environment(home)))
    Console().print(table(found))
    print(json.dumps([row.as_json() for row in found]))
