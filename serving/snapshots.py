"""GetCatalogueInfo and GetCatalogue: the signed device catalogue, the same for everyone."""

from __future__ import annotations

from collections.abc import Iterator

from governance.errors import NotServed
from serving.limits import STREAM_CHUNK_BYTES
from serving.state import CatalogueFile, Published
from serving.v1 import snapshots_pb2

__all__ = ["get_catalogue", "get_catalogue_info"]


def get_catalogue_info(
    published: Published,
    _request: snapshots_pb2.GetCatalogueInfoRequest,
) -> snapshots_pb2.GetCatalogueInfoResponse:
    """Describes the newest catalogue.

    Raises:
        NotServed: none is published.
    """
    return snapshots_pb2.GetCatalogueInfoResponse(info=_info(_catalogue(published)))


def get_catalogue(
    published: Published, request: snapshots_pb2.GetCatalogueRequest
) -> Iterator[snapshots_pb2.GetCatalogueResponse]:
    """The description, then the bytes in order, all of one catalogue whatever is published meanwhile.

    Raises:
        NotServed: none is published, or another one than asked for.
    """
    catalogue = _catalogue(published)
    newest = catalogue.about.sequence
    if request.HasField("sequence") and request.sequence != newest:
        raise NotServed(f"no catalogue {request.sequence}; published: {newest}")
    yield snapshots_pb2.GetCatalogueResponse(info=_info(catalogue))
    for start in range(0, len(catalogue.data), STREAM_CHUNK_BYTES):
        yield snapshots_pb2.GetCatalogueResponse(data=catalogue.data[start : start + STREAM_CHUNK_BYTES])


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
