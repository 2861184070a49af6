"""models: shared. What the process really holds once all four roles are loaded, beside one base alone."""

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
# Exact, where VmRSS of /proc/self/status is an estimate on machines of many cores.
ROLLUP = Path("/proc/self/smaps_rollup")


def resident() -> int:
    """Bytes of this process in memory, what is freed given back."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    (line,) = [line for line in ROLLUP.read_text().splitlines() if line.startswith("Rss:")]
    return int(line.split()[1]) * 1024


def hold(what: str, recipe_path: str, overrides: list[str]) -> None:
    """Print what is held more after loading `what` than before, and the bytes of the base's weights and of adapters."""
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
    load_causal(base, recipe.model, tokenizer, trained=False)  # what a first load leaves behind is none of ours
    before = resident()
    if what == "base":
        held = load_causal(base, recipe.model, tokenizer, trained=False)
        models = [held]
    else:
        held = (load_shared if what == "shared" else load_models)(recipe, tokenizer, accelerator)
        models = [
            held.policy,
            held.value,
            held.reference,
            *(model for reward in held.rewards for model in reward.scorer.models),
        ]
    bases = [model.base for model in models if isinstance(model, Role)]
    weights = {id(p): p for model in [*models, *bases] for p in model.parameters()}.values()
    for weight in weights:
        weight.detach().sum()  # a file's page counts once it has been read
    print(json.dumps({"held": resident() - before, "weights": sum(p.numel() * p.element_size() for p in weights)}))


def measured(what: str, recipe: Path, overrides: list[str]) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.test_shared_base_memory", what, str(recipe), *overrides],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.skipif(not ROLLUP.exists(), reason="tells memory as Linux does")
def test_four_roles_hold_little_more_than_one_base(tmp_path):
    recipe = make_setting(tmp_path, **SHAPE)
    overrides = [*make_adapters(tmp_path), "model.dtype=float32"]
    alone = measured("base", recipe, overrides)
    shared = measured("shared", recipe, [*overrides, "models=shared"])
    full = measured("full", recipe, overrides)
    for found in (alone, shared, full):
        assert found["held"] == pytest.approx(found["weights"], rel=0.05)
    assert shared["held"] < 1.15 * alone["held"]
    assert full["held"] > 3.5 * alone["held"]


if __name__ == "__main__":
    hold(sys.argv[1], sys.argv[2], sys.argv[3:])
