"""Which prompts to annotate: balanced over complexity and diversity of their tags (report, 3.2.1; Lu et al. 2023).

Lu et al. (#InsTag) measure a prompt's complexity by how many tags it has and a set's diversity by how many it covers,
and take the most complex prompts first as long as each adds a tag. Ours goes through the numbers of tags in turn, so
that simple prompts are there as well: in a round every prompt that is taken adds a tag to those of the round; where
none does any more, the next round begins.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from engine.data.order import stream

Tags = frozenset[str]


def select(tags: Sequence[Tags], count: int, seed: int) -> list[int]:
    """Positions of `count` prompts (all, if there are no more), in the order in which they are taken.

    A function of tags and seed alone. Prompts without tags come last.
    """
    shuffled = stream(seed, len(tags), 0, len(tags)) if tags else []
    left = [at for at in shuffled if tags[at]]
    taken: list[int] = []
    while left and len(taken) < count:
        taken += list(_round(left, tags))
        seen = set(taken)
        left = [at for at in left if at not in seen]
    return [*taken, *(at for at in shuffled if not tags[at])][:count]


def _round(left: Sequence[int], tags: Sequence[Tags]) -> Iterator[int]:
    """One prompt of every number of tags in turn, the largest first; each adds a tag to those of this round."""
    levels: dict[int, list[int]] = defaultdict(list)
    for at in left:
        levels[len(tags[at])].append(at)
    queues = [iter(levels[level]) for level in sorted(levels, reverse=True)]
    covered: set[str] = set()
    while queues:
        going = []
        for queue in queues:
            # What adds nothing now adds nothing later in the round, so a queue is gone through once.
            at = next((at for at in queue if not tags[at] <= covered), None)
            if at is not None:
                covered |= tags[at]
                going.append(queue)
                yield at
        queues = going


def coverage(tags: Sequence[Tags], chosen: Sequence[int]) -> dict[str, Any]:
    """What a choice covers of what there was: prompts, tags, numbers of tags, and how often the tags are met."""
    before, after = (Counter(tag for at in places for tag in tags[at]) for places in (range(len(tags)), chosen))
    return {
        "prompts": len(tags),
        "chosen": len(chosen),
        "tags": len(before),
        "tags_covered": len(after),
        "without_tags": sum(not each for each in tags),
        "by_complexity": {
            str(level): [sum(len(each) == level for each in tags), sum(len(tags[at]) == level for at in chosen)]
            for level in sorted({len(each) for each in tags})
        },
        "commonest": {tag: [before[tag], after[tag]] for tag, _ in before.most_common(20)},
        "missing": sorted(before.keys() - after.keys()),
    }
