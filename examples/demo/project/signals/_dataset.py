"""What differs between datasets: constants for "generated", from examples/demo/datasets.toml."""

from datetime import UTC, datetime, timedelta

from pipelines import EventSource, Interval, PublicColumn, PublicPartitions, PublicTable, Window

EVENTS = EventSource(name="events", table="data/events.parquet", timestamp="ts", person="user_id")
ITEMS = PublicTable(name="items", table="data/items.parquet")
USERS = PublicTable(name="users", table="data/users.parquet")
GENRES = PublicTable(name="genres", table="data/genres.parquet")

VALUE = Interval(0.5, 5.0)
VALUE_MEANING = "rating in stars"

PERIOD = "weekly"
ORIGIN = datetime(1970, 1, 5, tzinfo=UTC)  # one window starts here
WINDOW = Window(timedelta(days=7), origin=ORIGIN)
TTL = timedelta(days=36_500)  # a closed record does not go stale

GENRE_COHORT_KEYS = PublicPartitions(
    {"genre": PublicColumn(table=GENRES, column="genre"), "cohort": ("DE", "FR", "GB", "NL", "SE", "US")}
)
PLATFORMS = ("phone", "tv", "web")

# Contribution bounds: what one person (for affinity: one event) can add to one window.
ITEMS_PER_PERSON = 4
CELLS_PER_PERSON = 4
PLATFORMS_PER_PERSON = 2
EVENTS_PER_PLATFORM = 5
GENRES_PER_EVENT = 2

# Budgets: rho of one window.
ITEM_RHO = 0.05
GENRE_COHORT_RHO = 0.02
TREND_RHO = 0.01
AFFINITY_RHO = 0.25
