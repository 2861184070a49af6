"""Plain text that holds several documents, with a mark between them (`data.document_end`)."""

from collections.abc import Mapping

from chatml import RecordError, is_text, read_text
from engine.data.json_files import Records


def split_documents(records: Records, end: str, fields: Mapping[str, str | None]) -> Records:
    """Yield the records, and for one of plain text that holds `end` a record for each document between.

    `end` is compared exactly and belongs to no document. What is empty, or nothing but white space, is no document.
    Records that are not plain text, once `fields` has renamed, stay as they are.
    """
    for where, record in records:
        if isinstance(record, RecordError) or not is_text(record, fields) or end not in read_text(record, fields):
            yield where, record
            continue
        name = next((theirs for theirs, ours in fields.items() if ours == "text" and theirs in record), "text")
        documents = filter(str.strip, record[name].split(end))
        for number, document in enumerate(documents, start=1):
            yield f"{where}, document {number}", {name: document}
