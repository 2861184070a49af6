"""`make plan`: plans of all shipped recipes without network, advice, choice of hardware, error messages."""

import os
import re
import subprocess
import sys

import pytest

from config import RecipeError
from config.sections import Model
from config.stage import stage_of
from engine.errors import RunError
from engine.run import accelerate_config
from plan.advice import all_ways, with_changes
from plan.auto import choose
from plan.hardware import GIB, read_hardware
from plan.print_plan import page
from plan.recipe import planned_recipe
from plan.shape import PUBLISHED, config_of, shape
from plan.stages import planning
from tests.support.paths import ROOT

TRAINING = ("base", "pretrain", "sft", "pmp", "rm", "ppo")
SHIPPED = sorted(path for path in (ROOT / "recipes").glob("*/*.yaml")
                 if not path.parent.name.startswith("tiny") and path.stem in TRAINING)  # fmt: skip
# From the model cards and the headers of the weight files.
PARAMETERS = {
    "Qwen/Qwen1.5-0.5B": 463_987_712, "Qwen/Qwen1.5-1.8B": 1_836_828_672, "Qwen/Qwen1.5-7B": 7_721_324_544,
    "Qwen/Qwen1.5-14B": 14_167_290_880, "Qwen/Qwen1.5-72B": 72_287_920_128, "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen3-8B-Base": 8_190_735_360,
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def plan_of(path, *overrides):
    return planning(planned_recipe(str(path), overrides))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_shapes_have_the_published_number_of_parameters(name):
    config, words = config_of(name, Model(path=name))
    found = shape(config, words)
    assert found.parameters == PARAMETERS[name]
    assert words == f"{name} (shape as published)"


def test_the_parameters_of_qwen_7b_by_hand():
    d, f, vocabulary = 4096, 11008, 151936
    layer = 4 * d * d + 3 * d + 3 * d * f + 2 * d
    assert 2 * vocabulary * d + 32 * layer + d == PARAMETERS["Qwen/Qwen1.5-7B"]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}-{path.stem}")
@pytest.mark.parametrize("hardware", ["one_gpu", "fsdp2"])
def test_every_shipped_recipe_has_a_plan(path, hardware, monkeypatch):
    monkeypatch.setenv("MODEL", "Qwen/Qwen1.5-0.5B")  # of recipes/your-model
    if hardware == "fsdp2" and (path.parent.name, path.stem) == ("your-model", "ppo"):
        hardware = "ddp"  # models=shared is not sharded
    lines = list(page(planned_recipe(str(path), [f"plan.hardware={hardware}"])))
    assert any(line.startswith(("fits: ", "DOES NOT FIT: ")) for line in lines)
    assert any(line.startswith("tokens a step    ") for line in lines)


@pytest.mark.parametrize("stage", ["base", "sft", "pmp", "rm", "ppo"])
def test_every_tiny_recipe_has_a_plan_once_the_world_exists(stage, mini, monkeypatch):
    monkeypatch.setenv("TINY", str(mini))
    made = plan_of(f"recipes/tiny/{stage}.yaml", "plan.hardware=cpu")
    assert made.fits
    assert made.hardware.cpu
    assert next(iter(made.models.values()))[1] > 100_000


def test_the_stage_of_a_recipe_is_read_from_it_or_an_override():
    found = {path.stem: stage_of(str(path)) for path in SHIPPED}
    assert found == {"pretrain": "sft", "sft": "sft", "pmp": "reward", "rm": "reward", "ppo": "ppo"}
    assert stage_of("recipes/qwen1.5-7b/sft.yaml", ["stage=reward"]) == "reward"


def test_training_all_weights_of_7b_needs_sharding():
    """16 bytes per parameter, as docs/first_7b_run.md states."""
    one_gpu = plan_of("recipes/qwen1.5-7b/sft.yaml", "plan.hardware=one_gpu", "plan.device=a100")
    step = next(phase for phase in one_gpu.phases if phase.name == "optimiser's step")
    assert step.total == 16 * PARAMETERS["Qwen/Qwen1.5-7B"]
    assert not one_gpu.fits
    assert plan_of("recipes/qwen1.5-7b/sft.yaml", "plan.hardware=fsdp2", "plan.processes=8").fits


def test_following_the_advice_makes_the_plan_fit():
    recipe = planned_recipe("recipes/qwen1.5-7b/sft.yaml", [
        "plan.hardware=one_gpu", "trainer.per_device_train_batch_size=2", "trainer.gradient_accumulation_steps=64",
    ])  # fmt: skip
    fitting = [way for way in all_ways(recipe, planning(recipe)) if way.plan.fits]
    ways, last = [way.text or str(way.changes) for way in fitting], fitting[-1]
    assert ways == ["{'lora.r': 64}", "HARDWARE=fsdp2 with 2 processes"]
    # Each change makes the plan fit.
    assert planning(with_changes(recipe, {"lora.r": 64})).fits
    assert planning(with_changes(recipe, last.changes), hardware=read_hardware("fsdp2", 2, None, None, None)).fits


def test_a_base_in_4_bits_is_advised_if_the_full_one_does_not_fit():
    limits = ["plan.hardware=one_gpu", "plan.device=4090"]
    found = []
    for path, keys in (("qwen1.5-7b/sft", ["lora.r=64"]), ("qwen1.5-72b/ppo", ["models=shared", "plan.device=h100"])):
        recipe = planned_recipe(f"recipes/{path}.yaml", [*limits, *keys, "plan.lora_r=16"])
        fitting = [way for way in all_ways(recipe, planning(recipe)) if way.plan.fits]
        assert planning(with_changes(recipe, fitting[0].changes)).fits
        found.append(fitting[0].changes)
    assert found[0] == {"lora.merge": False, "lora.load_in_4bit": True}
    assert found[1]["ppo.load_in_4bit"]


def test_a_shared_base_is_counted_once_in_bfloat16_or_in_4_bits():
    keys = ["plan.hardware=one_gpu", "models=shared", "plan.lora_r=16"]
    whole, four = (plan_of("recipes/qwen1.5-72b/ppo.yaml", *keys, f"ppo.load_in_4bit={x}") for x in (False, True))
    base, of_four = ({phase.name: phase.parts["frozen models"] for phase in made.phases}["scoring rollouts"]
                     for made in (whole, four))  # fmt: skip
    products, adapters = whole.shape.products, whole.models["policy"][1] + whole.models["value model"][1]
    assert base == 2 * (whole.shape.parameters + adapters)
    assert base - of_four == pytest.approx((2 - 0.516) * products, rel=1e-3)
    assert four.work.waiting - whole.work.waiting == pytest.approx(
        whole.work.waiting * (2 + 0.516) * products / (2 * whole.shape.parameters), rel=1e-3
    )  # weights are dequantized for every token


def test_the_batch_size_is_halved_only_as_often_as_needed():
    limits = ("plan.hardware=one_gpu", "lora.r=8", "plan.memory_gib=28")
    recipe = planned_recipe("recipes/qwen1.5-1.8b/sft.yaml", [
        *limits, "trainer.per_device_train_batch_size=32", "trainer.gradient_accumulation_steps=4",
    ])  # fmt: skip
    made = planning(recipe)
    assert not made.fits
    first = next(all_ways(recipe, made))
    rows = first.changes["trainer.per_device_train_batch_size"]
    assert first.plan.fits
    assert rows * first.changes["trainer.gradient_accumulation_steps"] == 128
    twice = {"trainer.per_device_train_batch_size": 2 * rows, "trainer.gradient_accumulation_steps": 64 // rows}
    assert not planning(with_changes(recipe, twice)).fits


def test_the_docs_show_what_the_command_prints():
    shown = re.findall(r"```\n\$ make plan ([^\n]*)\n(.*?)\n```", (ROOT / "docs/planning.md").read_text(), re.DOTALL)
    assert len(shown) == 3
    for command, text in shown:
        words = {name: value.strip('"') for name, value in re.findall(r'(\w+)=("[^"]*"|\S+)', command)}
        overrides = [f"plan.hardware={words['HARDWARE']}", *words["ARGS"].split()]
        assert "\n".join(page(planned_recipe(words["RECIPE"], overrides))) == text


def test_offloading_frozen_models_and_sharing_a_base_lower_the_peak_of_ppo():
    recipe = planned_recipe("recipes/qwen1.5-1.8b/ppo.yaml", ["plan.hardware=one_gpu"])
    full, shared = planning(recipe), planning(with_changes(recipe, {"models": "shared"}))
    waiting = planning(with_changes(recipe, {"ppo.offload_frozen": True}))
    frozen = 2 * (full.models["reference"][0] + full.models["reward model 1"][0])
    # Of the reference only the linear layers are stored in bfloat16.
    frozen += 2 * (full.shape.parameters - full.shape.products)
    assert full.peak.total - waiting.peak.total == frozen
    assert shared.models["policy"][1] < 0.05 * full.models["policy"][1]
    assert shared.peak.total < full.peak.total


def test_every_reward_model_of_a_mix_is_counted():
    mix = 'reward.mix={a: [x/a, x/b], b: {path: x/c, weight: 2}, c: {rule: "m:f"}}'
    one = plan_of("recipes/qwen1.5-1.8b/ppo.yaml", "plan.hardware=one_gpu")
    three = plan_of("recipes/qwen1.5-1.8b/ppo.yaml", "plan.hardware=one_gpu", "reward.path=null", mix)
    assert sorted(three.models.keys() - one.models.keys()) == ["reward model 2", "reward model 3"]
    assert three.peak.total - one.peak.total == 2 * 2 * one.models["reward model 1"][0]


def test_the_buffers_of_compiled_decoding_count_in_every_phase():
    recipe = planned_recipe("recipes/qwen1.5-1.8b/ppo.yaml", ["plan.hardware=one_gpu"])
    plain, compiled = planning(recipe), planning(with_changes(recipe, {"sampling.engine": "compiled"}))
    buffers = {phase.parts["compiled decoding"] for phase in compiled.phases}
    assert len(buffers) == 1
    for before, after in zip(plain.phases, compiled.phases, strict=True):
        given_up = before.parts.get("autocast copies", 0) + before.parts.get("KV cache", 0)
        if before.name == "generating responses":
            assert after.total == pytest.approx(before.total + max(buffers) - given_up)
        elif before.name != "prefill":
            assert after.total == pytest.approx(before.total + max(buffers))
    with pytest.raises(RunError, match=r"^sampling.engine=compiled runs in one process or under ddp; use HARDWARE=ddp"):
        plan_of("recipes/qwen1.5-1.8b/ppo.yaml", "plan.hardware=fsdp2", "sampling.engine=compiled")


def test_sampling_split_is_advised_for_a_policy_too_large_for_one_device():
    recipe = planned_recipe("recipes/qwen1.5-72b/ppo.yaml", [
        "plan.hardware=fsdp2", "plan.processes=64", "plan.device=a100", "ppo.gradient_checkpointing=true",
    ])  # fmt: skip
    whole = planning(recipe)
    assert not whole.fits
    way = next(all_ways(recipe, whole))
    assert way.changes == {"sampling.split": 8}
    assert way.plan.fits
    with pytest.raises(RunError) as error:
        planning(with_changes(recipe, {"sampling.split": 5}))
    assert str(error.value) == (
        "sampling.split=5 does not divide the 64 processes of this plan, or its model's heads; choose another"
    )


def test_published_weights_are_in_host_memory_once_per_machine():
    recipe = "recipes/qwen1.5-7b/sft.yaml"
    for hardware, rank in (("fsdp2", 0), ("fsdp2", 8), ("zero3", 8)):
        made = plan_of(recipe, f"plan.hardware={hardware}", f"lora.r={rank}")
        assert made.host_bytes == 2 * PARAMETERS["Qwen/Qwen1.5-7B"]


def test_host_memory_for_merging_is_printed_only_if_adapters_are_merged():
    recipe, line_start = (
        "recipes/qwen1.5-7b/sft.yaml",
        "host memory of the first machine: 28.76 GiB while adapters are merged ",
    )
    for keys, shown in ((["lora.r=8"], True), (["lora.r=8", "lora.merge=false"], False), ([], False)):
        lines = list(page(planned_recipe(recipe, ["plan.hardware=fsdp2", *keys])))
        assert any(line.startswith(line_start) for line in lines) is shown


def test_the_number_of_steps_of_an_epoch_needs_plan_rows():
    batch = ["plan.hardware=fsdp2", "trainer.per_device_train_batch_size=2", "trainer.gradient_accumulation_steps=32"]
    made = plan_of("recipes/qwen1.5-7b/pmp.yaml", *batch, "plan.rows=1000")
    assert made.work.steps == 16  # of 64 rows
    assert made.work.tokens == 64 * 2 * 2048
    assert plan_of("recipes/qwen1.5-7b/pmp.yaml", *batch).work.steps is None


def test_hardware_is_read_from_its_accelerate_file(tmp_path, monkeypatch):
    monkeypatch.setattr(accelerate_config, "CONFIGURATIONS", folder := tmp_path)
    (folder / "nodes.yaml").write_text("distributed_type: FSDP\nnum_machines: 4\nuse_cpu: false\n")
    (folder / "zero.yaml").write_text("distributed_type: DEEPSPEED\nnum_processes: 4\n"
                                      "deepspeed_config: {zero_stage: 3}\n")  # fmt: skip
    nodes = read_hardware("nodes", None, "a100-40", None, None)
    assert (nodes.sharing, nodes.processes, nodes.machines, nodes.memory) == ("fsdp2", 32, 4, 39 * GIB)
    assert read_hardware("zero", None, None, None, None).sharing == "zero3"
    assert read_hardware("zero", 1, None, None, None).sharing == "none"
    assert read_hardware(None, None, "4090", 20, 100).usable == 18 * GIB


def test_hardware_does_not_depend_on_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_hardware("zero3", 4, None, None, None).sharing == "zero3"


GPU = 80_000_000_000


@pytest.mark.parametrize(
    ("recipe", "overrides", "gpus", "name", "reason"),
    [
        ("qwen1.5-7b/sft", [], 0, "cpu", "no GPU"),
        ("qwen1.5-72b/sft", [], 1, "one_gpu", "1 GPU"),
        ("qwen1.5-1.8b/sft", [], 8, "ddp", "8 GPUs of 80 GB, "),
        ("qwen1.5-7b/sft", [], 8, "fsdp2", "8 GPUs of 80 GB, 1"),
        ("qwen1.5-7b/sft", ["lora.r=8"], 2, "ddp", "2 GPUs of 80 GB, "),
        ("qwen1.5-7b/pmp", [], 8, "fsdp2", "8 GPUs of 80 GB, 1"),
        ("qwen1.5-0.5b/ppo", [], 8, "ddp", "8 GPUs of 80 GB, "),
        ("qwen1.5-1.8b/ppo", [], 8, "fsdp2", "8 GPUs of 80 GB, 1"),
        ("qwen1.5-72b/ppo", ["models=shared"], 8, "ddp",
         "GB of each for full models; models=shared runs in one process or under ddp"),
    ],
)  # fmt: skip
def test_auto_chooses_hardware_by_the_plan(recipe, overrides, gpus, name, reason):
    """DDP if the full models fit on each GPU, else sharding, if the stage supports it."""
    chosen, printed_reason = choose(planned_recipe(f"recipes/{recipe}.yaml", overrides), gpus, GPU)
    assert chosen == name
    assert reason in printed_reason


def test_auto_prints_the_name_to_stdout_and_the_reason_to_stderr():
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "plan.choose", "recipes/qwen1.5-7b/sft.yaml"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment)
    assert (ended.stdout, ended.stderr) == ("cpu\n", "HARDWARE=auto: cpu, 1 process (no GPU)\n")


@pytest.mark.parametrize(
    ("recipe", "overrides", "message"),
    [
        ("qwen1.5-7b/sft", ["plan.hardware=none"], "plan.hardware is none; it must be one of "),
        ("qwen1.5-7b/sft", ["plan.device=v100"],
         "plan.device is v100; it must be one of cpu, h100, h200, a100, a100-40, l40s, 4090: for another give "
         "plan.memory_gib and plan.tflops as well"),
        ("qwen1.5-7b/sft", ["plan.rows=0"], "plan.rows is 0; it must be at least 1"),
        ("qwen1.5-7b/sft", ["plan.devise=cpu"], "unknown key plan.devise; did you mean plan.device?"),
        ("qwen1.5-7b/sft", ["stage=evil"],
         "stage is evil; it must be one of sft, reward, ppo, eval, prompts, candidates, pairs"),
        ("qwen1.5-7b/sft", ["zzz.a=1"],
         "unknown key zzz.a; the recipe has stage, model, lora, chatml, data, run, sft, trainer"),
        ("qwen1.5-7b/sft", ["trainer.max_step=3"], "unknown key trainer.max_step; did you mean trainer.max_steps?"),
        ("tiny/eval", [], "recipes/tiny/eval.yaml is not a recipe of a training stage; use one of sft, base, pmp, rm "
                          "or ppo"),
        ("qwen1.5-7b/ppo", ["models=shared", "plan.hardware=fsdp2"],
         "models=shared runs in one process or under ddp; use HARDWARE=ddp, or set models=full"),
        ("qwen1.5-7b/sft", ["plan.hardware=fsdp2", "lora.r=8", "lora.merge=false", "lora.load_in_4bit=true"],
         "lora.load_in_4bit=true was not tried under fsdp2; use HARDWARE=ddp or one_gpu"),
        ("qwen1.5-7b/sft", ["model.path=nowhere/else/model"],
         "model.path: nowhere/else/model does not exist; name a file or folder that does, or the id of one on the hub "
         "(owner/name)"),
    ],
)  # fmt: skip
def test_mistakes_in_a_recipe_or_override_are_refused(recipe, overrides, message):
    with pytest.raises(RecipeError) as error:
        plan_of(f"recipes/{recipe}.yaml", *overrides)
    assert str(error.value).startswith(message)


def test_the_command_prints_only_the_plan():
    """And no message of DeepSpeed, if installed, about a machine without a GPU."""
    recipe, overrides = "recipes/qwen1.5-7b/sft.yaml", ["plan.hardware=fsdp2"]
    environment = {name: value for name, value in os.environ.items() if name != "DS_ACCELERATOR"}
    command = [sys.executable, "-m", "plan", recipe, *overrides]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment)
    assert ended.stdout == "".join(f"{line}\n" for line in page(planned_recipe(recipe, overrides)))


def test_a_mistake_on_the_command_line_is_reported_before_importing_torch():
    command = [sys.executable, "-X", "importtime", "-m", "plan", "recipes/qwen1.5-7b/sft.yaml", "plan.device=v100"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=os.environ)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith("error: plan.device is v100; it must be one of cpu, ")
    assert not [line for line in ended.stderr.splitlines() if line.split("|")[-1].strip() in ("torch", "transformers")]
