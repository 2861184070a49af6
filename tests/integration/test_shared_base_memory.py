"""models=shared: the memory of a process that has loaded all four roles, compared with one base."""

import ctypes
import gc
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.ppo_setting import make_adapters, make_setting

SHAPE = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8,
         "num_attention_heads": 8, "num_key_value_heads": 8}  # fmt: skip
# Exact; VmRSS in /proc/self/status is an estimate on machines with many cores.
ROLLUP = Path("/proc/self/smaps_rollup")


def resident() -> int:
    """Return this process's resident memory in bytes, after freed memory was returned to the system."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    (line,) = [line for line in ROLLUP.read_text().splitlines() if line.startswith("Rss:")]
    return int(line.split()[1]) * 1024


def print_memory(what: str, recipe_path: str, overrides: list[str]) -> None:
    """Print the growth of resident memory by loading `what`, and the bytes of its weights."""
    from accelerate import Accelerator

    from engine.models.loading import load_causal
    from engine.models.multi_adapter import Role
    from engine.models.tokenizer import load_tokenizer
    from ppo.models import load_models
    from ppo.shared_base import load_shared
    from tests.support.ppo_setting import recipe_of

    recipe = recipe_of(Path(recipe_path), *overrides)
    tokenizer, accelerator = load_tokenizer(recipe.model.path), Accelerator(cpu=True)
    base = str(Path(recipe_path).parent / "policy")
    load_causal(base, recipe.model, tokenizer, trained=False)  # memory that a first load leaves behind is not counted
    before = resident()
    if what == "base":
        loaded = load_causal(base, recipe.model, tokenizer, trained=False)
        models = [loaded]
    else:
        loaded = (load_shared if what == "shared" else load_models)(recipe, tokenizer, accelerator)
        models = [
            loaded.policy,
            loaded.value,
            loaded.reference,
            *(model for reward in loaded.rewards for model in reward.scorer.models),
        ]
    bases = [model.base for model in models if isinstance(model, Role)]
    weights = {id(p): p for model in [*models, *bases] for p in model.parameters()}.values()
    for weight in weights:
        weight.detach().sum()  # pages of a mapped file count only once they are read
    print(json.dumps({"held": resident() - before, "weights": sum(p.numel() * p.element_size() for p in weights)}))


def memory_of(what: str, recipe: Path, overrides: list[str]) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.test_shared_base_memory", what, str(recipe), *overrides],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.skipif(not ROLLUP.exists(), reason="needs Linux's /proc/self/smaps_rollup")
def test_four_shared_roles_need_at_most_15_percent_more_memory_than_the_base(tmp_path):
    recipe = make_setting(tmp_path, **SHAPE)
    overrides = [*make_adapters(tmp_path), "model.dtype=float32"]
    base = memory_of("base", recipe, overrides)
    shared_roles = memory_of("shared", recipe, [*overrides, "models=shared"])
    full = memory_of("full", recipe, overrides)
    for found in (base, shared_roles, full):
        assert found["held"] == pytest.approx(found["weights"], rel=0.05)
    assert shared_roles["held"] < 1.15 * base["held"]
    assert full["held"] > 3.5 * base["held"]


if __name__ == "__main__":
    print_memory(sys.argv[1], sys.argv[2], sys.argv[3:])
