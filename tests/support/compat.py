"""The private names of other libraries that only tests use; see engine/compat.py for all others."""

from typing import Any


def reset_accelerate(state: Any) -> None:
    """Forget what the module accelerate.state keeps for a whole process; processes of users never need that."""
    state.AcceleratorState._reset_state(reset_partial_state=True)


def shared_state(kind: Any) -> dict[str, Any]:
    """The values that all objects of PartialState, or of AcceleratorState, share; creating one would set them."""
    return kind._shared_state


def launch_arguments(arguments: list[str]) -> tuple[Any, Any]:
    """What `accelerate launch` makes of its arguments and its configuration file; only the whole launch is public."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    made, defaults, _ = _validate_launch_command(launch_command_parser().parse_args(arguments))
    return made, defaults


def counting_backend(name: str) -> Any:
    """A backend of torch.compile that keeps the graphs it gets; torch's own tests use it."""
    from torch._dynamo.testing import CompileCounterWithBackend

    return CompileCounterWithBackend(name)


def is_static_input(node: Any) -> bool:
    """Whether an input of a traced graph was marked with a static address."""
    return bool(node.meta["tensor_dict"].get("_dynamo_static_input_type"))
