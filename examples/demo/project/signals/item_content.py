"""Item vectors from the public catalogue: nobody's behaviour is in them, so they cost no privacy."""

from _dataset import ITEMS

from pipelines import ContentEmbedding, Purpose

ITEM_CONTENT = ContentEmbedding(
    name="item_content",
    version=1,
    owner="reco-platform",
    purpose=Purpose.RETRIEVAL,
    description="Genres, title words and year of an item.",
    source=ITEMS,
    key="item_id",
    title="title",
    categories=("genre",),
    numeric=("year",),
    dimensions=64,
)
