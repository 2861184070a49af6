"""The private names that engine/compat.py uses exist, and do what is relied on."""

import ast
import importlib
import inspect
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset, load_from_disk
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Trainer, TrainingArguments
from trl import SFTTrainer

from engine import compat
from engine.forward.logprobs import with_logprobs
from tests.support.paths import ROOT
from tests.unit.test_layers import MAY_IMPORT, OURS, parsed

CALLED = ("_get_train_sampler", "_prepare_inputs")
CONFIG = LlamaConfig(
    vocab_size=16, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, pad_token_id=0
)


def small() -> PreTrainedModel:
    return compat.new_model(LlamaForCausalLM, CONFIG, attn_implementation="sdpa")


# The methods of Trainer


@pytest.mark.parametrize("name", compat.TRAINER_METHODS)
def test_the_trainer_has_the_method_with_these_parameters(name):
    assert tuple(inspect.signature(getattr(Trainer, name)).parameters)[1:] == compat.TRAINER_METHODS[name]


@pytest.mark.parametrize("name", sorted(set(compat.TRAINER_METHODS) - set(CALLED)))
def test_the_trainer_calls_the_method_that_is_overridden(name):
    """A method that it no longer calls would be overridden in vain."""
    assert f"self.{name}(" in inspect.getsource(Trainer)


def classes_with_private_methods() -> list[type]:
    """Our classes at the top of a module that have a private method and a base."""
    found = []
    for path in (path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py")):
        named = [
            node.name
            for node in parsed(path).body
            if isinstance(node, ast.ClassDef) and node.bases
            if any(isinstance(each, ast.FunctionDef) and each.name.startswith("_") for each in node.body)
        ]
        if named:
            module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
            found += [getattr(module, name) for name in named]
    return found


def overridden(kind: type) -> set[str]:
    """The private methods of a class that a base from a library has too."""
    bases = [base for base in kind.__mro__ if base.__module__.split(".")[0] not in OURS]
    private = {name for name, value in vars(kind).items() if name.startswith("_") and inspect.isfunction(value)}
    return {name for name in private if not name.startswith("__") and any(name in vars(base) for base in bases)}


def test_every_private_method_that_is_overridden_is_listed():
    found = {kind.__name__: overridden(kind) for kind in classes_with_private_methods()}
    assert found["NamedCheckpoints"] == set(compat.TRAINER_METHODS) - set(CALLED)
    assert set().union(*found.values()) <= set(compat.TRAINER_METHODS)


# transformers and TRL


def test_the_attention_in_use_is_read():
    model = small()
    assert compat.attention_of(model) == "sdpa"
    model.set_attn_implementation("eager")
    assert compat.attention_of(model) == "eager"


def test_the_attention_is_set_in_the_configuration_without_a_check():
    model = small()
    compat.set_configured_attention(model.config, "of no library")
    assert compat.attention_of(model) == "of no library"


def test_a_model_of_a_class_of_ours_is_built():
    kind = with_logprobs(LlamaForCausalLM)
    model = compat.new_model(kind, CONFIG, attn_implementation="eager", dtype=torch.bfloat16)
    assert type(model) is kind
    assert (compat.attention_of(model), model.dtype) == ("eager", torch.bfloat16)


def test_the_plan_is_that_of_the_head_alone():
    assert compat.head_parallel_plan(small()) == {"lm_head": "colwise_gather_output"}

    class WithoutPlan(LlamaForCausalLM):
        _tp_plan = None

    assert compat.head_parallel_plan(WithoutPlan(CONFIG)) == {}


def test_a_file_that_a_model_folder_lacks_is_none(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert compat.cached_file_or_none(str(tmp_path), "config.json", None) == str(tmp_path / "config.json")
    assert compat.cached_file_or_none(str(tmp_path), "tokenizer.json", None) is None


@pytest.mark.parametrize(("visible", "used"), [(0, 0), (1, 1), (4, 1)])
def test_at_most_one_gpu_is_used(tmp_path, visible, used):
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    assert arguments.n_gpu == 0
    arguments._n_gpu = visible
    compat.use_one_gpu(arguments)
    assert arguments.n_gpu == used


def test_trl_prepares_rows_with_these_arguments():
    """Its constructor passes the same: the rows, the tokenizer, its arguments, and how to pack."""
    given = {}

    def prepare(*arguments):
        given.update(inspect.signature(SFTTrainer._prepare_dataset).bind(None, *arguments).arguments)
        return "prepared"

    trainer = SimpleNamespace(args="settings", _prepare_dataset=prepare)
    assert compat.trl_prepared(trainer, "rows", "tokenizer") == "prepared"
    assert given.pop("self") is None
    assert given == {
        "dataset": "rows",
        "processing_class": "tokenizer",
        "args": "settings",
        "packing": False,
        "formatting_func": None,
        "dataset_name": "train",
    }


# torch


def test_buffers_that_a_state_dict_leaves_out_are_named():
    module = torch.nn.Module()
    module.register_buffer("stored", torch.zeros(1))
    module.register_buffer("computed", torch.zeros(1), persistent=False)
    assert compat.non_persistent_buffers(module) == {"computed"}
    assert list(module.state_dict()) == ["stored"]


def test_what_cannot_be_traced_raises_the_compilers_error():
    def branch(x):
        return x if x.sum() > 0 else -x

    with pytest.raises(compat.compile_error()):
        torch.compile(branch, fullgraph=True, backend="eager")(torch.ones(1))
    torch.compiler.reset()


def test_a_tensor_is_marked_as_one_that_stays():
    """What the compiler makes of it is tested in tests/integration/test_compiled.py."""
    tensor = torch.zeros(1)
    before = set(vars(tensor))
    compat.mark_static_address(tensor)
    assert set(vars(tensor)) - before


# datasets


def test_a_data_set_has_the_fingerprint_of_its_content(tmp_path):
    for name, values in (("one", [1, 2]), ("other", [1, 3])):
        Dataset.from_dict({"a": values}).save_to_disk(tmp_path / name)
    one, again, other = (load_from_disk(tmp_path / name) for name in ("one", "one", "other"))
    assert compat.table_fingerprint(one) == compat.table_fingerprint(again)
    assert compat.table_fingerprint(one) != compat.table_fingerprint(other)
    assert compat.table_fingerprint(one) != compat.table_fingerprint(one.select([1]))


# DeepSpeed: what the calls do is tested by the checkpoints of ZeRO in tests/integration; importing it takes long.


def deepspeed_class(file: str, name: str) -> tuple[dict[str, list[str]], str]:
    """The methods of a class of DeepSpeed with their parameters, and the source of the class."""
    source = (Path(find_spec("deepspeed").origin).parent / file).read_text(encoding="utf-8")
    (kind,) = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef) and node.name == name)
    methods = {
        node.name: [each.arg for each in node.args.args[1:]] for node in kind.body if isinstance(node, ast.FunctionDef)
    }
    return methods, ast.get_source_segment(source, kind)


def test_zero3_partitions_weights():
    methods, _ = deepspeed_class("runtime/zero/partition_parameters.py", "Init")
    assert methods["_convert_to_zero_parameters"] == ["param_list"]
    calls = []
    compat.partition_weights(SimpleNamespace(_convert_to_zero_parameters=calls.append), ["weight"])
    assert calls == [["weight"]]


def test_zero3_gathers_weights():
    methods, _ = deepspeed_class("runtime/engine.py", "DeepSpeedEngine")
    assert methods["_zero3_consolidated_16bit_state_dict"] == ["exclude_frozen_parameters"]
    for found, expected in ((None, {}), ({"a": 1}, {"a": 1})):
        engine = SimpleNamespace(
            _zero3_consolidated_16bit_state_dict=lambda exclude_frozen_parameters, found=found: (
                found if exclude_frozen_parameters else {"frozen": 1}
            )
        )
        assert compat.consolidated_weights(engine) == expected


def test_a_weight_without_a_part_on_this_rank():
    _, source = deepspeed_class("runtime/zero/stage_1_and_2.py", "DeepSpeedZeroOptimizer")
    assert "_hp_mapping" in source
    weight = torch.nn.Parameter(torch.zeros(1))
    assert compat.is_on_this_rank(weight)
    weight._hp_mapping = "a part"
    assert compat.is_on_this_rank(weight)
    weight._hp_mapping = None
    assert not compat.is_on_this_rank(weight)


def test_zero2_links_moments_again():
    methods, source = deepspeed_class("runtime/zero/stage_1_and_2.py", "DeepSpeedZeroOptimizer")
    assert methods["_lazy_init_hp_params_optimizer_state"] == []
    assert "if not self._hp_optimizer_states_linked" in source
    optimizer = SimpleNamespace(_hp_optimizer_states_linked=True)
    linked = []
    optimizer._lazy_init_hp_params_optimizer_state = lambda: linked.append(optimizer._hp_optimizer_states_linked)
    compat.link_moments(optimizer)
    assert linked == [False]


def test_zero3_updates_the_weights_that_it_computes_with():
    methods, _ = deepspeed_class("runtime/zero/stage3.py", "DeepSpeedZeroOptimizer_Stage3")
    assert methods["_reassign_or_swap_out_partitioned_parameters"] == ["sub_group_id"]
    groups = []
    compat.update_computed_weights(SimpleNamespace(_reassign_or_swap_out_partitioned_parameters=groups.append), 3)
    assert groups == [3]
