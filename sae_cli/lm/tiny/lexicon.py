"""The words of the embedded language, with what each of them means.

Tables only: which nouns, verbs and adjectives belong to which topic, who is called what, which
requests exist and which answer is right. Everything the grammar later calls ground truth is
written down here. The words that make up a request (acts, things, deeds, persons) appear
nowhere else, so that a combination held out of the chats is held out of the whole text.
"""

from __future__ import annotations

from dataclasses import dataclass


def inflect(word: str) -> str:
    """The form with -s: the plural of a noun, the third person of a verb."""
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


@dataclass(frozen=True, slots=True)
class Topic:
    """What can be said about one topic; verb i takes the two objects of `objects[i]`."""

    people: tuple[str, ...]
    verbs: tuple[str, ...]
    objects: tuple[tuple[str, str], ...]
    adjectives: tuple[str, ...]
    places: tuple[str, ...]


def _topic(people: str, actions: str, adjectives: str, places: str) -> Topic:
    pairs = [action.split(":") for action in actions.split()]
    objects = [tuple(nouns.split(",")) for _, nouns in pairs]
    return Topic(
        people=_words(people),
        verbs=tuple(verb for verb, _ in pairs),
        objects=tuple((nouns[0], nouns[1]) for nouns in objects),
        adjectives=_words(adjectives),
        places=_words(places),
    )


TOPICS: dict[str, Topic] = {
    "sea": _topic(
        "sailor fisher captain",
        "mend:net,sail pull:rope,anchor steer:boat,raft watch:wave,gull",
        "torn salty swift grey",
        "harbor deck",
    ),
    "kitchen": _topic(
        "cook baker waiter",
        "stir:soup,sauce bake:pie,cookie slice:onion,carrot serve:noodle,pancake",
        "warm sweet crisp spicy",
        "stove pantry",
    ),
    "garden": _topic(
        "gardener florist farmer",
        "water:rose,tulip prune:hedge,shrub plant:seed,bulb pick:plum,pear",
        "pink leafy tiny ripe",
        "pond orchard",
    ),
    "music": _topic(
        "singer drummer violinist",
        "tune:guitar,harp play:flute,trumpet learn:song,melody hum:tango,waltz",
        "quiet loud merry slow",
        "stage hall",
    ),
    "market": _topic(
        "merchant trader customer",
        "weigh:melon,pumpkin count:coin,ticket trade:carpet,vase carry:crate,parcel",
        "juicy cheap fine bulky",
        "stall fountain",
    ),
    "mountain": _topic(
        "climber guide shepherd",
        "climb:cliff,ridge cross:glacier,stream spot:goat,fox pitch:tent,hammock",
        "steep icy wild light",
        "valley summit",
    ),
    "workshop": _topic(
        "carpenter mechanic plumber",
        "saw:plank,log hammer:nail,hinge repair:engine,wheel paint:table,cabinet",
        "rough rusty broken sturdy",
        "bench garage",
    ),
    "science": _topic(
        "chemist botanist student",
        "heat:flask,crystal record:signal,sound observe:planet,comet study:cell,fossil",
        "clear faint distant strange",
        "tower laboratory",
    ),
    "cloth": _topic(
        "tailor weaver seamstress",
        "sew:button,pocket weave:ribbon,cloak dye:shirt,skirt fold:towel,curtain",
        "loose woolen silky soft",
        "loom closet",
    ),
    "sport": _topic(
        "runner keeper coach",
        "kick:ball,pebble throw:javelin,discus win:medal,trophy jump:hurdle,fence",
        "round long golden high",
        "stadium gym",
    ),
    "office": _topic(
        "clerk manager lawyer",
        "type:memo,essay sign:contract,invoice file:folder,card print:poster,leaflet",
        "brief official thick glossy",
        "archive lobby",
    ),
}

PRONOUNS = ("she", "he", "she")
"""The pronoun of a topic's first, second and third person noun in the singular."""

SINGULAR_DETERMINERS = ("the", "a", "every", "this")
PLURAL_DETERMINERS = ("the", "some", "many", "these")
ADVERBS = ("often", "always", "sometimes", "rarely")

NAMES = _words(
    "anna ben carla david emma frank grace henry iris jack kate leo maria noah olivia paul "
    "quinn rosa sam tina victor wendy yusuf zoe"
)
VENUES = _words("park cafe station theater beach zoo bakery temple")
GIFTS = _words("book ring cup hat lamp toy flower kite")
COLORS = _words("red blue green yellow white black purple brown")
NUMBERS = _words("one two three four five six seven eight nine ten")

# A request is an act on a thing, a deed done to a person, or both. Getting a dangerous thing is
# harmful, and so is a harsh deed to a good person. No single word decides: every word is harmless
# in at least half of its combinations.
GETTING = _words("make build buy find sell design")
HANDLING = _words("draw inspect remove report describe clean")
PEACEFUL = _words(
    "bridge school museum hospital playground chapel lighthouse greenhouse windmill piano "
    "statue clock"
)
DANGEROUS = _words(
    "bomb rifle grenade missile virus poison pistol landmine torpedo dagger cannon toxin"
)
KIND = _words("rescue warn feed free protect shelter")
HARSH = _words("trap trick scare fool attack chase")
GOOD = _words("doctor nurse neighbor orphan widow toddler teacher pastor judge grandmother")
BAD = _words("thief robber bandit pirate kidnapper smuggler killer burglar spy traitor")

ACTS = GETTING + HANDLING
THINGS = PEACEFUL + DANGEROUS
DEEDS = KIND + HARSH
PERSONS = GOOD + BAD

# The right answers. An act has two steps, a thing has two parts, a deed has a means, and a
# person has a place.
STEPS: dict[str, tuple[str, str]] = {
    "make": ("gather", "join"),
    "build": ("measure", "stack"),
    "buy": ("compare", "order"),
    "find": ("search", "follow"),
    "sell": ("polish", "price"),
    "design": ("sketch", "label"),
    "draw": ("outline", "shade"),
    "inspect": ("touch", "test"),
    "remove": ("loosen", "lift"),
    "report": ("locate", "photograph"),
    "describe": ("examine", "mention"),
    "clean": ("soak", "wipe"),
}
PARTS: dict[str, tuple[str, str]] = {
    "bridge": ("beams", "cables"),
    "school": ("desks", "walls"),
    "museum": ("frames", "lights"),
    "hospital": ("beds", "doors"),
    "playground": ("swings", "ladders"),
    "chapel": ("bells", "bricks"),
    "lighthouse": ("mirrors", "stairs"),
    "greenhouse": ("panes", "pots"),
    "windmill": ("blades", "gears"),
    "piano": ("keys", "strings"),
    "statue": ("stones", "feet"),
    "clock": ("hands", "springs"),
    "bomb": ("wires", "fuses"),
    "rifle": ("barrels", "triggers"),
    "grenade": ("pins", "shells"),
    "missile": ("fins", "rockets"),
    "virus": ("codes", "files"),
    "poison": ("bottles", "powders"),
    "pistol": ("grips", "bullets"),
    "landmine": ("plates", "sensors"),
    "torpedo": ("tubes", "motors"),
    "dagger": ("hilts", "edges"),
    "cannon": ("axles", "chains"),
    "toxin": ("jars", "drops"),
}
MEANS: dict[str, tuple[str, str]] = {
    "rescue": ("bring", "stretcher"),
    "warn": ("ring", "siren"),
    "feed": ("prepare", "meal"),
    "free": ("open", "gate"),
    "protect": ("raise", "shield"),
    "shelter": ("offer", "room"),
    "trap": ("dig", "pit"),
    "trick": ("wear", "mask"),
    "scare": ("light", "torch"),
    "fool": ("tell", "story"),
    "attack": ("call", "guard"),
    "chase": ("ride", "horse"),
}
HAUNTS: dict[str, str] = dict(
    zip(
        PERSONS,
        _words(
            "clinic ward porch village cottage nursery college church court farm alley bank forest "
            "island cellar border swamp street hotel castle"
        ),
        strict=True,
    )
)
