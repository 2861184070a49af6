"""What is experimental: the notes of a run, and the table of the page."""

import re

import pytest

from config import load
from config.experimental import FEATURES, PAGE, Machine, notes
from ppo.recipe import PPO
from reward.recipe import Reward
from sft.recipe import SFT
from tests.support.paths import ROOT
from tests.unit.config.test_packages import YAML

CPU, GPU = Machine(), Machine(gpu=True)
FLASH = Machine(gpu=True, flash_attention=True)
FOUR_BITS = "lora={r: 2, merge: false, load_in_4bit: true}"
CASES = [
    (SFT, [], CPU, []),
    (PPO, ["model.dtype=bfloat16", "sampling.engine=transformers"], CPU, []),
    (SFT, [], GPU, ["a GPU"]),
    (SFT, [], FLASH, ["a GPU", "flash-attn"]),
    (Reward, [], FLASH, ["a GPU"]),
    (Reward, ["reward.share_prompts=false"], FLASH, ["a GPU", "flash-attn"]),
    (SFT, ["model.attention=sdpa"], FLASH, ["a GPU"]),
    (SFT, ["model.attention=flash_attention_2"], CPU, ["flash-attn"]),
    (SFT, [], Machine(gpu=True, ranks=8), ["HARDWARE=ddp"]),
    (SFT, [], Machine(gpu=True, ranks=8, sharding="fsdp2"), ["HARDWARE=fsdp2"]),
    (SFT, [], Machine(gpu=True, ranks=8, sharding="zero2"), ["HARDWARE=zero2 or zero3"]),
    (SFT, [], Machine(gpu=True, ranks=16, hosts=2, sharding="fsdp2"), ["HARDWARE=multi_node"]),
    (SFT, [], Machine(ranks=4, sharding="fsdp2"), []),
    (SFT, [FOUR_BITS], CPU, ["a base in 4 bits"]),
    (PPO, ["models=shared", "ppo.load_in_4bit=true"], CPU, ["a base in 4 bits"]),
    (PPO, ["sampling.engine=compiled"], CPU, ["sampling.engine=compiled"]),
    (PPO, ["sampling.engine=vllm"], GPU, ["a GPU", "sampling.engine=vllm"]),
    (PPO, ["sampling.split=2"], Machine(gpu=True, ranks=2), ["HARDWARE=ddp", "sampling.split"]),
    (SFT, [], Machine(system="darwin"), ["macOS"]),
]


@pytest.mark.parametrize(("schema", "overrides", "machine", "names"), CASES)
def test_a_run_names_what_it_uses(tmp_path, schema, overrides, machine, names):
    path = tmp_path / "recipe.yaml"
    path.write_text(YAML[schema])
    lines = list(notes(load(schema, path, overrides), machine))
    assert [re.fullmatch(rf"note: (.+) is experimental: not run .+; see {PAGE}", line)[1] for line in lines] == names


def test_every_feature_is_in_a_case():
    assert {name for *_, names in CASES for name in names} == {feature.name for feature in FEATURES}


def test_the_page_has_the_same_features_and_checks_for_each():
    page, _, anchor = PAGE.partition("#")
    text = (ROOT / page).read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (.+)\n([^\0]*?)(?=^## |\Z)", text, re.MULTILINE))
    table = sections[anchor.capitalize()]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines() if line[:2] == "| "]
    features = {name: not_run for name, _, _, not_run in rows[2:]}
    assert {name: not_run for name, not_run in features.items() if ": " not in name} == {
        feature.name: feature.not_run for feature in FEATURES
    }
    assert {name.partition(": ")[0] for name in features if ": " in name} == {"a GPU"}
    checked = re.findall(r"^\| ([^|:]+)", sections["Checks when a GPU is at hand"], re.MULTILINE)
    missing = [f.name for f in FEATURES if not any(f.name.split(" or ")[0].split("=")[-1] in name for name in checked)]
    assert not missing
