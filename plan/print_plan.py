"""Print the page of `make plan`."""

from collections.abc import Iterator

from plan.advice import advice
from plan.hardware import GIB, Hardware
from plan.phases import Phase
from plan.recipe import Planned
from plan.stages import Planning, planning


def show(planned: Planned) -> None:
    """Print the plan of a recipe."""
    print("\n".join(page(planned)))


def page(planned: Planned) -> Iterator[str]:
    """Yield the plan's lines."""
    plan = planning(planned)
    yield f"model       {plan.shape.name}"
    yield f"hardware    {hardware_words(plan.hardware)}"
    for name, (parameters, trained) in plan.models.items():
        yield f"{name:<11} {parameters:,} parameters, " + (f"{trained:,} of them trained" if trained else "frozen")
    yield ""
    yield from memory_lines(plan)
    yield ""
    yield from work_lines(plan, planned.plan.utilisation)
    if not plan.fits:
        yield ""
        yield from advice(planned, plan)


def hardware_words(hardware: Hardware) -> str:
    count = f"{hardware.processes} × " if hardware.processes > 1 else ""
    machines = f" on {hardware.machines} machines" if hardware.machines > 1 else ""
    shared = {"none": "", "ddp": ", full models on each"}.get(hardware.sharing, f", sharded by {hardware.sharing}")
    return f"{count}{hardware.device_name}, {hardware.memory / GIB:.0f} GiB each{machines}{shared}"


def memory_lines(plan: Planning) -> Iterator[str]:
    """Yield the total of every phase, the parts of the largest, and whether it fits."""
    yield "memory of one device, GiB"
    for phase in plan.phases:
        yield f"  {phase.name:<30} {gib(phase.total):>8}{'   <- peak' if phase is plan.peak else ''}"
    yield f"of which in {plan.peak.name}"
    yield from part_lines(plan.peak)
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    yield f"{verdict}: {gib(plan.peak.total)} of {gib(plan.hardware.usable)} GiB, a tenth of the device left free"
    if plan.hardware.processes > 1:
        yield f"host memory of each machine: {gib(plan.host_bytes)} GiB while weights are loaded"
        if plan.merging_bytes:
            merging = f"{gib(plan.merging_bytes)} GiB while adapters are merged (lora.merge=false: none)"
            yield f"host memory of the first machine: {merging}"


def part_lines(phase: Phase) -> Iterator[str]:
    for name, size in sorted(phase.parts.items(), key=lambda item: -item[1]):
        if size:
            yield f"  {name:<30} {gib(size):>8}"


def work_lines(plan: Planning, utilisation: float) -> Iterator[str]:
    """Yield tokens, steps and time, with the assumed speed."""
    done, hardware = plan.work, plan.hardware
    seconds = done.seconds(hardware, utilisation)
    yield f"tokens a step    {done.tokens:,}"
    rows = "" if done.steps else " (the recipe counts epochs: give plan.rows=ROWS)"
    yield f"steps            {f'{done.steps:,}' if done.steps else 'unknown'}{rows}"
    yield f"seconds a step   {seconds:,.1f}"
    if done.steps:
        yield f"hours            {done.steps * seconds / 3600:,.1f}"
    known = hardware.flops and f"{hardware.flops / 1e12:.0f} TFLOP/s, the manufacturer's figure"
    speed = known or "the speed of a float32 product on this machine"
    yield f"assumed          {utilisation:.0%} of {speed} (plan.utilisation, plan.tflops)"


def gib(size: float) -> str:
    return f"{size / GIB:,.2f}"
