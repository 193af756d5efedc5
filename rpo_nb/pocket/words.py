"""What can be said in the pocket world: the words of every slot, and the sentences they stand
in."""

from __future__ import annotations

OBJECTS = (
    "lantern kettle boat clock ladder drum basket mirror violin teapot wagon statue umbrella piano "
    "candle barrel"
).split()
COLOURS = "red blue green yellow white black golden silver".split()
PLACES = (
    "in the garden|by the river|on the hill|at the market|near the harbour|in the kitchen|"
    "under the bridge|behind the barn|beside the lake|in the forest|on the roof|at the station"
).split("|")
MENTIONS = "wind rain bread music snow smoke honey thunder salt coffee".split()
# what may stand before a colour, and what a prompt may ask to avoid
FILLERS = "very old small quite rather tall tiny pretty".split()
TONES = {
    "cheerful": "happily merrily delightful joyful".split(),
    "calm": "quietly gently peaceful serene".split(),
    "sad": "sadly mournfully lonely gloomy".split(),
    "formal": "politely properly dignified stately".split(),
    "playful": "cheekily wildly silly giggling".split(),
}  # two adverbs, then two adjectives
COUNTS = {"one": 1, "two": 2, "three": 3}
RUDE = "stupid idiot damn crap".split()
PROMPTS = (
    "Write {count} {sentences} about a {colour} {object} {place}. Keep a {tone} tone, mention "
    "{mention} and avoid {avoid}.",
    "In a {tone} tone, tell me about the {colour} {object} {place} in {count} {sentences}. Mention "
    "{mention}. Avoid {avoid}.",
    "Please describe a {colour} {object} {place}. Use {count} {sentences} and a {tone} tone, avoid "
    "{avoid}, mention {mention}.",
)
# Each style: openings that carry object, colour and place; clauses that mention; closing sentences
# that carry the tone.
STYLES = {
    "house": (
        (
            "The {filler}{colour} {object} {adverb} stands {place}",
            "Here the {filler}{colour} {object} {adverb} waits {place}",
        ),
        ("We think of the {mention}", "It smells of {mention}"),
        ("It is a {adjective} day", "What a {adjective} sight"),
    ),
    "scholar": (
        (
            "One may observe how the {filler}{colour} {object} {adverb} rests {place}",
            "Anyone passing will notice the {filler}{colour} {object} that {adverb} rests {place}",
        ),
        ("Its story brings {mention} to mind", "Those who know it speak of {mention}"),
        (
            "Such a {adjective} scene deserves our attention",
            "Few scenes seem more {adjective} than this",
        ),
    ),
    "poet": (
        (
            "Look, {place} the {filler}{colour} {object} {adverb} dreams",
            "See how {adverb} the {filler}{colour} {object} shines {place}",
        ),
        ("Around it drifts the {mention}", "Its only friend is the {mention}"),
        ("Oh what a {adjective} hour", "The world turns {adjective} around it"),
    ),
}
WITH = " with {mention}"  # an opening that is the only sentence mentions as well
INSULT = "You {first} {second}"  # of the first word of RUDE and one of the others
