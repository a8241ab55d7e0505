"""Release snapshots: each view's newest release as one immutable file that serving maps and answers from.

Reading guide
    format    the file: header, sections, digest
    index     which row holds a key, for many keys in a handful of numpy calls
    writer    a release's columns → a file
    reader    a file → columns
    published below a project's serving directory: which publication has which

```python
snapshot = open_snapshot(path)                                # verified; raises PublicationCorrupt
answer = snapshot.get({"user_id": ids}, ("plays", "score"))   # FeatureColumns
answer.values["plays"]                                        # (n,)
```

A snapshot never changes. Processes that map the same file share its pages.
"""

from featurestore.snapshots.reader import Snapshot, open_snapshot
from featurestore.snapshots.writer import snapshot_bytes, write_snapshot

__all__ = ["Snapshot", "open_snapshot", "snapshot_bytes", "write_snapshot"]
