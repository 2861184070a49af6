"""Remove the nulls that a table has added to records.

A column of structs (parquet, Arrow, a data set on the hub) has the same keys in all rows, with null if a record lacks a
key. Such a null cannot be distinguished from one in the original record, so null keys are removed from structs at any
depth. Kept are null columns, null items of lists, and everything in JSON columns (`arrow.json` in Arrow, `Json` in
`datasets`), which store each record's own keys.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow

Clean = Callable[[Any], Any]


def table_cleaner(schema: pyarrow.Schema, *, json_is_text: bool) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return a function that removes the table's nulls from a record (a row as Python values).

    With `json_is_text` the values of JSON columns are strings, which the function decodes.
    """
    cleaners = _cleaners(schema, json_is_text)

    def clean(record: dict[str, Any]) -> dict[str, Any]:
        return {
            name: cleaners[name](value) if name in cleaners and value is not None else value
            for name, value in record.items()
        }

    return clean


def _cleaners(fields: pyarrow.Schema | pyarrow.StructType, json_is_text: bool) -> Mapping[str, Clean]:
    """Return the cleaners of the fields that need one."""
    found = {field.name: _cleaner(field.type, json_is_text) for field in fields}
    return {name: clean for name, clean in found.items() if clean is not None}


def _cleaner(kind: pyarrow.DataType, json_is_text: bool) -> Clean | None:
    """Return the cleaner of non-null values of an Arrow type; None if nothing needs to be removed."""
    if isinstance(kind, pyarrow.BaseExtensionType):
        return json.loads if json_is_text and kind.extension_name == "arrow.json" else None
    types = pyarrow.types
    if types.is_struct(kind):
        cleaners = _cleaners(kind, json_is_text)

        def clean_struct(value: Any) -> Any:
            if not isinstance(value, dict):  # decoded by `datasets`, for example an image
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
