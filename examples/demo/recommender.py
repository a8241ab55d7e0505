"""A recommendation model that knows nothing but the serving client: released features and public vectors over gRPC."""

from collections.abc import Mapping, Sequence

import numpy as np

from serving.client import Client


class Recommender:
    """Ranks items for accounts. `genres`: item → genres (public); `view`: people per item, e.g. item_weekly_v1."""

    def __init__(self, client: Client, genres: Mapping[int, Sequence[str]], accounts: Sequence[int], view: str) -> None:
        self.client, self.accounts = client, list(accounts)
        self.names = sorted({name for several in genres.values() for name in several})
        users, value, events = f"{view}:users", f"{view}:mean_value", "user_genre_affinity_v1:events"
        crowd = client.get_features(features=[users, value], entities={"item_id": list(genres)})
        liked = crowd[users] * np.nan_to_num(crowd[value])  # 0 where an item was not released
        self.liked = dict(zip(genres, (liked / max(liked.max(), 1)).tolist(), strict=True))
        self.famous = sorted(genres, key=lambda item: -self.liked[item])
        keys = {"user_id": np.repeat(accounts, len(self.names)), "genre": np.tile(self.names, len(accounts))}
        counts = client.get_features(features=[events], entities=keys)[events].reshape(-1, len(self.names)).clip(0)
        self.taste = counts / (counts.sum(axis=1, keepdims=True) + 10)  # who chose little shows little taste
        known = [[item for item in self.famous if name in genres[item]][:20] for name in self.names]
        self.centres = np.stack([client.get_embeddings("item_content", ids).vectors.mean(axis=0) for ids in known])

    def personalised(self, account: int, k: int = 5) -> list[int]:
        """What suits an account: near the genres that it chooses more than others do, and liked."""
        return self._near((self.taste[self.accounts.index(account)] - self.taste.mean(axis=0)).clip(0), k)

    def popular(self, k: int = 5) -> list[int]:
        """The same for everyone: what is liked most; where too little was released, what suits the average taste."""
        liked = [item for item in self.famous[:k] if self.liked[item] > 0]
        return list(dict.fromkeys([*liked, *self._near(self.taste.mean(axis=0), k)]))[:k]

    def _near(self, taste: np.ndarray, k: int) -> list[int]:
        near = self.client.search("item_content", vectors=taste @ self.centres, k=100)
        found = zip(near.ids[0, : near.counts[0]].tolist(), near.scores[0].tolist(), strict=False)
        return [i for _, i in sorted((-score - 0.3 * self.liked.get(i, 0), i) for i, score in found)][:k]
