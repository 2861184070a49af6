"""Select prompts to annotate, balanced over complexity and diversity of their tags (report, 3.2.1; Lu et al. 2023).

Lu et al. (#InsTag) measure the complexity of a prompt by its number of tags and the diversity of a set by the number of
distinct tags in it. They take the most complex prompts first, as long as each adds a new tag. Ours takes one prompt of
each number of tags in turn, so that simple prompts are included too. Within a round, each prompt must add a tag that is
new in this round; when no prompt does, the next round starts.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from engine.data.order import shuffled_positions

Tags = frozenset[str]


def select(tags: Sequence[Tags], count: int, seed: int) -> list[int]:
    """Return the positions in `tags` of `count` prompts, or of all if there are fewer, in the order of selection.

    The result depends on tags and seed only. Prompts without tags come last.
    """
    shuffled = shuffled_positions(seed, len(tags), 0, len(tags)) if tags else []
    left = [at for at in shuffled if tags[at]]
    taken: list[int] = []
    while left and len(taken) < count:
        taken += list(_one_round(left, tags))
        seen = set(taken)
        left = [at for at in left if at not in seen]
    return [*taken, *(at for at in shuffled if not tags[at])][:count]


def _one_round(left: Sequence[int], tags: Sequence[Tags]) -> Iterator[int]:
    """Yield a prompt of each number of tags in turn, the largest first; each adds a tag that is new in this round."""
    levels: dict[int, list[int]] = defaultdict(list)
    for at in left:
        levels[len(tags[at])].append(at)
    queues = [iter(levels[level]) for level in sorted(levels, reverse=True)]
    covered: set[str] = set()
    while queues:
        remaining = []
        for queue in queues:
            # A prompt that adds no tag now cannot add one later in the round, so each queue is read once.
            adds = next((at for at in queue if not tags[at] <= covered), None)
            if adds is not None:
                covered |= tags[adds]
                remaining.append(queue)
                yield adds
        queues = remaining


def coverage(tags: Sequence[Tags], chosen: Sequence[int]) -> dict[str, Any]:
    """Return the report written to coverage.json: how much of all prompts and tags the `chosen` positions cover.

    The lists in "by_complexity" (number of tags → prompts) and "commonest" (tag → prompts) are [all, chosen].
    """
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
