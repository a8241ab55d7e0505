"""Names for invented films, made of words that go with their genres, so that titles say something about content."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["GENRES", "invent_titles"]

_QUALITIES = {
    "Action": "Fatal Burning Final Armoured Reckless Iron Rapid Hostile Double Loaded",
    "Adventure": "Lost Hidden Golden Distant Uncharted Forgotten Sunken Farthest Wild Endless",
    "Comedy": "Awkward Accidental Unlikely Clumsy Cheerful Borrowed Ridiculous Lucky Impossible Noisy",
    "Crime": "Stolen Crooked Dirty Unmarked Quiet Guilty Paid Cold Marked Bitter",
    "Documentary": "Ordinary Living Vanishing Untold Salted Working Open Measured Common Northern",
    "Drama": "Broken Second Tender Unfinished Fading Faithful Late Winter Shared Silent",
    "Fantasy": "Enchanted Silver Thorned Moonlit Ancient Whispering Crowned Winged Sleeping Emerald",
    "Horror": "Hollow Pale Cursed Buried Starving Crawling Nameless Rotten Screaming Bloodless",
    "Mystery": "Missing Veiled Locked Midnight Vanished Secret Seventh Faceless Sealed Blind",
    "Romance": "Beloved Unwritten Sweet Hopeful Barefoot Blushing Promised April Dancing Summer",
    "Sci-Fi": "Orbital Synthetic Electric Parallel Frozen Stellar Binary Quantum Drifting Outer",
    "Western": "Dusty Lonesome Rusted Barren Outlaw Scorched Wandering Crimson Unbroken Last",
}
_THINGS = {
    "Action": "Strike Pursuit Commando Bullet Squad Convoy Ambush Detonator Extraction Breach Vendetta Siege",
    "Adventure": "Voyage Expedition Compass Island Caravan Summit River Map Treasure Harbour Lighthouse Horizon",
    "Comedy": "Wedding Neighbours Holiday Roommate Bakery Reunion Babysitter Mix-Up Uncle Choir Ferry Audition",
    "Crime": "Heist Alibi Syndicate Ledger Informant Docks Verdict Counterfeit Getaway Wiretap Payroll Witness",
    "Documentary": "Orchard Fishery Glacier Workshop Migration Railway Archive Harvest Bees Market Estuary Choirbook",
    "Drama": "Daughter Letters House Farewell Inheritance Kitchen Brother Hospital Bridge Promise Garden Teacher",
    "Fantasy": "Dragon Kingdom Sorcerer Lantern Forest Crown Spell Griffin Oath Castle Witch Prophecy",
    "Horror": "Cellar Asylum Doll Graveyard Feast Scarecrow Mirror Swamp Possession Crypt Attic Howl",
    "Mystery": "Stranger Detective Manuscript Staircase Clue Portrait Corridor Telegram Footprint Cipher Guest Clock",
    "Romance": "Kiss Rendezvous Waltz Bouquet Balcony Proposal Honeymoon Valentine Sweetheart Serenade Postcard Ribbon",
    "Sci-Fi": "Android Station Colony Signal Satellite Protocol Nebula Engineer Wormhole Capsule Machine Starship",
    "Western": "Sheriff Saddle Canyon Stagecoach Ranch Gunslinger Prairie Saloon Rider Frontier Mustang Gallows",
}
_PLACES = (
    "Orsk Marenholt Vale Thessaly Brackwater Calden Ilmarin Northgate Saltmere Averly Castellon Dunmoor Evershed "
    "Fenwick Grimsey Hallow Istria Jessamy Kirkwall Larkspur Monterra Nightfall Oakhaven Penrose Quillan Ravensby "
    "Sable Tarn Umber Westray"
)

GENRES = tuple(_QUALITIES)


def invent_titles(genres: Sequence[Sequence[str]], generator: np.random.Generator) -> list[str]:
    """One title for each film, no two alike.

    Args:
        genres: each film's genres, the first one leading.
        generator: decides everything.
    """
    taken: set[str] = set()
    titles = []
    for kinds in genres:
        title = next(
            (draft for draft in (_draft(kinds, generator) for _ in range(20)) if draft not in taken),
            f"{_draft(kinds, generator)}, Part {len(taken) + 1}",
        )
        taken.add(title)
        titles.append(title)
    return titles


def _draft(kinds: Sequence[str], generator: np.random.Generator) -> str:
    def pick(words: Sequence[str]) -> str:
        return words[int(generator.integers(len(words)))]

    quality, thing = pick(_QUALITIES[kinds[0]].split()), pick(_THINGS[kinds[-1]].split())
    other, place = pick(_THINGS[kinds[0]].split()), pick(_PLACES.split())
    shapes = (
        f"The {quality} {thing}",
        f"{quality} {thing}",
        f"The {thing} of {place}",
        f"{quality} {thing} of {place}",
        f"The {other} and the {thing}" if other != thing else f"The {thing}",
        f"{thing} in {place}",
    )
    return pick(shapes)
