"""TRL's side of bench/ppo.py; runs in the virtual environment with TRL 1.12.0."""

import tempfile
import time
from typing import Any

from bench.clock import reset_peak_memory
from bench.ppo import EPOCHS, STEPS, WARMUP_STEPS, Case, make_prompts, make_responses_end
from bench.row import Figures
from engine.dist.devices import peak_memory


def steps(case: dict[str, Any], models: str) -> Figures:
    """Run PPOTrainer on the prompts of the case, without its two gc.collect() calls per step."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    class NoCollection:
        @staticmethod
        def collect() -> None: ...

    ppo_trainer.gc = NoCollection
    work, ends = Case(**case), []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    tokenizer = AutoTokenizer.from_pretrained(f"{models}/policy")
    tokenizer.padding_side = "left"
    policy, reference = (AutoModelForCausalLM.from_pretrained(f"{models}/policy", dtype=torch.float32) for _ in "ab")
    reward, value = (
        AutoModelForSequenceClassification.from_pretrained(f"{models}/reward", dtype=torch.float32) for _ in "ab"
    )
    if not work.fixed:
        make_responses_end(policy, tokenizer.eos_token_id)
        make_responses_end(reference, tokenizer.eos_token_id)
    with tempfile.TemporaryDirectory() as folder:
        config = PPOConfig(
            folder, per_device_train_batch_size=work.responses, num_ppo_epochs=EPOCHS, num_mini_batches=1,
            total_episodes=work.responses * (WARMUP_STEPS + STEPS), response_length=64 if work.fixed else 128,
            stop_token=None if work.fixed else "eos", temperature=1.0, learning_rate=1e-6, report_to="none",
            num_sample_generations=0, save_strategy="no", use_cpu=True, bf16=work.dtype == "bfloat16",
            gradient_checkpointing=False, logging_steps=10**6, disable_tqdm=True,
        )  # fmt: skip
        trainer = PPOTrainer(
            config, tokenizer, policy, reference, reward, Dataset.from_dict({"input_ids": make_prompts(work)}), value,
            callbacks=[Clock()],
        )  # fmt: skip
        before = reset_peak_memory()
        trainer.train()
    seconds = (ends[-1] - ends[WARMUP_STEPS - 1]) / STEPS
    trained = [p for model in (policy, value) for p in model.parameters()]
    above = peak_memory() - before - 12 * sum(p.numel() for p in trained)
    return {"steps_per_hour": 3600 / seconds, "peak_mib": max(above, 0) / 2**20}
