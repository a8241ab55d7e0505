"""One packed row per (view, entity): the codec that SQLite, Redis and snapshots share.

Reading guide
    texts    n byte strings in one buffer
    schema   the fields of a view's rows, and where each lies in a row
    codec    columns → rows → columns, in both directions without visiting single values
    runs     rows of one release → the bytes of each column
    keys     entity keys: as columns, as bytes for stores, as hashes for indexes
    places   which row each of many integers has
    answers  what a lookup gives: columns, found mask, event times, releases

Numpy only: nothing here knows Feast, Arrow, SQLite or Redis.
"""

from featurestore.rows.answers import FeatureColumns, release_code
from featurestore.rows.codec import Column, PackedRows, Rows, pack, unpack
from featurestore.rows.keys import KeyColumn, key_bytes, key_hashes, text_keys
from featurestore.rows.places import PlaceTable
from featurestore.rows.runs import RunReader, Runs
from featurestore.rows.schema import Kind, RowField, RowSchema
from featurestore.rows.texts import Texts

__all__ = [
    "Column",
    "FeatureColumns",
    "KeyColumn",
    "Kind",
    "PackedRows",
    "PlaceTable",
    "RowField",
    "RowSchema",
    "Rows",
    "RunReader",
    "Runs",
    "Texts",
    "key_bytes",
    "key_hashes",
    "pack",
    "release_code",
    "text_keys",
    "unpack",
]
