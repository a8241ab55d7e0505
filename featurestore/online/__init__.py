"""The online store: the newest released rows by key.

Reading guide
    reader           the interface that serving reads through, and the shape of an answer
"""

from featurestore.online.reader import EMPTY_VALUES, NUMPY_TYPES, OnlineColumns, OnlineReader

__all__ = ["EMPTY_VALUES", "NUMPY_TYPES", "OnlineColumns", "OnlineReader"]
