"""Step 1: select prompts by their tags; writes prompts.jsonl and coverage.json into the run folder."""

import json
import time
from typing import Any

from chatml import RecordError, read_prompt
from engine.data.sources import read_source
from engine.errors import RunError
from engine.files import durable, jsonl
from engine.run.folder import RunFolder
from reward.annotation.recipe import SelectPrompts
from reward.annotation.selection import coverage, select
from reward.annotation.tagging import tags_from_fields, tags_from_tagger


def select_prompts(recipe: SelectPrompts) -> None:
    """Read, tag and select prompts, and write each selected record unchanged, with `tags` added.

    Raises RunError for a bad record (unless data.on_bad_record skips it), or if no prompt has a tag.
    """
    began, folder, data = time.perf_counter(), RunFolder(recipe), recipe.data
    records: dict[str, dict[str, Any]] = {}
    conversations, tags, repeated = [], [], 0
    for source in data.sources("prompts"):
        for where, record in read_source(source):
            try:
                if isinstance(record, RecordError):
                    raise record
                messages = [message.as_dict() for message in read_prompt(record, data.fields, data.roles).messages]
                found = tags_from_fields(record, recipe.select.tag_fields)
            except RecordError as error:
                if data.on_bad_record == "error":
                    raise RunError(f"{where}: {error}") from None
                continue
            name = json.dumps(messages, sort_keys=True)
            if name in records:
                repeated += 1
                continue
            records[name] = record
            conversations.append(messages)
            tags.append(found)
    if recipe.select.tagger is not None:
        untagged = [at for at, found in enumerate(tags) if not found]
        tagged = tags_from_tagger(recipe, [conversations[at] for at in untagged])
        for at, found in zip(untagged, tagged, strict=True):
            tags[at] = found
    if not any(tags):
        if recipe.select.tagger is not None:
            raise RunError(
                "select.tagger gave no prompt a tag; name another tagger, or the records' own select.tag_fields"
            )
        raise RunError(f"no prompt has a tag in {', '.join(recipe.select.tag_fields)}; change it, or set select.tagger")
    chosen = select(tags, recipe.select.count, recipe.run.seed)
    kept = list(records.values())
    jsonl.write(folder.path / "prompts.jsonl", [{**kept[at], "tags": sorted(tags[at])} for at in chosen])
    report = coverage(tags, chosen) | {"repeated": repeated}
    durable.write_json(folder.path / "coverage.json", report)
    print(
        f"prompts: {report['chosen']:,} of {report['prompts']:,} selected ({repeated:,} duplicates dropped), "
        f"{report['tags_covered']:,} of {report['tags']:,} tags covered; details in {folder.path / 'coverage.json'}"
    )
    folder.finish(len(chosen), time.perf_counter() - began, "prompts")
