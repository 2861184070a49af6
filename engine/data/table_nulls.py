"""Nulls that a table put into records are not data.

A column of structs (parquet, Arrow, a data set on the hub) has one list of keys for all of its rows, and null where a
record does not have one. Such a null cannot be told from one that was meant, so keys that are null are left out of
structs, however deep they stand in lists and other structs. What stays: columns that are null themselves, null items of
lists, and everything in columns of JSON (`arrow.json` in Arrow, `Json` in `datasets`), which have a record's own keys.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow

Clean = Callable[[Any], Any]


def table_cleaner(schema: pyarrow.Schema, *, json_is_text: bool) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return the function that takes the table's nulls out of a record, a row of the table as Python values.

    `json_is_text`: whether values of JSON columns are text still, which is then read.
    """
    cleaners = _cleaners(schema, json_is_text)

    def clean(record: dict[str, Any]) -> dict[str, Any]:
        return {
            name: cleaners[name](value) if name in cleaners and value is not None else value
            for name, value in record.items()
        }

    return clean


def _cleaners(fields: pyarrow.Schema | pyarrow.StructType, json_is_text: bool) -> Mapping[str, Clean]:
    """Return the cleaners of those fields that need one."""
    found = {field.name: _cleaner(field.type, json_is_text) for field in fields}
    return {name: clean for name, clean in found.items() if clean is not None}


def _cleaner(kind: pyarrow.DataType, json_is_text: bool) -> Clean | None:
    """Return the function for values of an Arrow type that are not null; None where it would change nothing."""
    if isinstance(kind, pyarrow.BaseExtensionType):
        return json.loads if json_is_text and kind.extension_name == "arrow.json" else None
    types = pyarrow.types
    if types.is_struct(kind):
        cleaners = _cleaners(kind, json_is_text)

        def clean_struct(value: Any) -> Any:
            if not isinstance(value, dict):  # what `datasets` decoded: an image, say
                return value
            present = ((name, item) for name, item in value.items() if item is not None)
            return {name: cleaners[name](item) if name in cleaners else item for name, item in present}

        return clean_struct
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        clean_item = _cleaner(kind.value_type, json_is_text)
        if clean_item is None:
            return None
        return lambda value: [None if item is None else clean_item(item) for item in value]
    return None
