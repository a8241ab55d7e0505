"""GetCatalogueInfo and GetCatalogue: the signed device catalogue, the same for everyone. Answers are serialised."""

from __future__ import annotations

from collections.abc import Iterator

from governance.errors import NotServed
from serving.access import CATALOGUE, Permit
from serving.limits import STREAM_CHUNK_BYTES
from serving.problems import UnknownName
from serving.state import CatalogueFile, Published
from serving.v1 import snapshots_pb2

__all__ = ["get_catalogue", "get_catalogue_info"]


def get_catalogue_info(
    published: Published,
    _request: snapshots_pb2.GetCatalogueInfoRequest,
    permit: Permit,
) -> bytes:
    """Describes the newest catalogue.

    Raises:
        NotServed: none is published.
        AccessDenied: the caller may not read it.
    """
    permit((CATALOGUE,), 1)
    return snapshots_pb2.GetCatalogueInfoResponse(info=_info(_catalogue(published))).SerializeToString()


def get_catalogue(published: Published, request: snapshots_pb2.GetCatalogueRequest, permit: Permit) -> Iterator[bytes]:
    """The description, then the bytes in order, all of one catalogue whatever is published meanwhile.

    Raises:
        NotServed: none is published, or another one than asked for.
        AccessDenied: the caller may not read it.
    """
    permit((CATALOGUE,), 1)
    catalogue = _catalogue(published)
    newest = catalogue.about.sequence
    if request.HasField("sequence") and request.sequence != newest:
        raise UnknownName("sequence", f"no catalogue {request.sequence}", {str(newest): (CATALOGUE,)})
    yield snapshots_pb2.GetCatalogueResponse(info=_info(catalogue)).SerializeToString()
    for start in range(0, len(catalogue.data), STREAM_CHUNK_BYTES):
        part = snapshots_pb2.GetCatalogueResponse(data=catalogue.data[start : start + STREAM_CHUNK_BYTES])
        yield part.SerializeToString()


def _catalogue(published: Published) -> CatalogueFile:
    if published.catalogue is None:
        raise NotServed("no catalogue is published; release item vectors and run 'hedgerow publish'")
    return published.catalogue


def _info(catalogue: CatalogueFile) -> snapshots_pb2.CatalogueInfo:
    about = catalogue.about
    return snapshots_pb2.CatalogueInfo(
        sequence=about.sequence,
        bytes=about.bytes,
        sha256=bytes.fromhex(about.sha256),
        signature=bytes.fromhex(about.signature),
        public_key=catalogue.public_key,
        releases=about.releases,
    )
