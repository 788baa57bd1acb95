"""How archive rows lie in Parquet: which columns are compressed, which have a dictionary, how large a row group is."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from pipeline.records import ARCHIVE_SCHEMA

ROW_GROUP_BYTES = 4 << 20
"""One photo costs one row group to read: small enough for a ranged request, large enough for its overhead."""
SHARD_BYTES = 128 << 20

# Bitstreams and metadata are entropy-coded or nearly so: compressing them again costs time and saves nothing.
_UNCOMPRESSED = ("image.bytes", "exif", "icc", "xmp", "iptc", "xmp_extended", "original")
_DICTIONARY = ("codec", "model", "outcome", "reason", "format", "mode", "encoder", "recipe")


def parquet_options() -> dict[str, Any]:
    """Keyword arguments of `pyarrow.parquet.ParquetWriter`."""
    columns = [path for field in ARCHIVE_SCHEMA for path in _leaf_paths(field)]
    return {
        "version": "2.6",
        "compression": {path: "none" if path in _UNCOMPRESSED else "zstd" for path in columns},
        "use_dictionary": list(_DICTIONARY),
        "write_statistics": ["key", "outcome", "codec", "width", "height", "source_bytes"],
        "write_page_checksum": True,
        "write_page_index": True,
    }


def schema_with_features() -> pa.Schema:
    """`ARCHIVE_SCHEMA` with the Hugging Face features declared, so that `datasets` shows `image` as an image."""
    features: dict[str, Any] = {}
    for field in ARCHIVE_SCHEMA:
        if field.name == "image":
            features[field.name] = {"_type": "Image"}
        else:
            features[field.name] = {"dtype": _feature_type(field.type), "_type": "Value"}
    return ARCHIVE_SCHEMA.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def _leaf_paths(field: pa.Field) -> list[str]:
    if pa.types.is_struct(field.type):
        return [f"{field.name}.{child.name}" for child in field.type]
    return [field.name]


def _feature_type(kind: pa.DataType) -> str:
    return {"float": "float32"}.get(str(kind), str(kind))
