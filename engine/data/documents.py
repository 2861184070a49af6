"""Split plain text into documents at a separator (`data.document_end`)."""

from collections.abc import Mapping

from chatml import RecordError, is_text, read_text
from engine.data.json_files import Records


def split_documents(records: Records, end: str, fields: Mapping[str, str | None]) -> Records:
    """Yield the records, with one record per document in place of plain text that contains the separator `end`.

    `end` is matched exactly and is not part of any document. Documents of white space only are left out. Records that
    are not plain text after renaming by `fields` are not changed.
    """
    for where, record in records:
        if isinstance(record, RecordError) or not is_text(record, fields) or end not in read_text(record, fields):
            yield where, record
            continue
        name = next((theirs for theirs, ours in fields.items() if ours == "text" and theirs in record), "text")
        documents = filter(str.strip, record[name].split(end))
        for number, document in enumerate(documents, start=1):
            yield f"{where}, document {number}", {name: document}
