"""The pocket world's language a second time, written by hand as a context-free grammar for nltk.

It takes nothing from the package, so that what the checker calls a sentence can be held against
it.
"""

from functools import cache

import nltk

RULES = """
TEXT -> SENTENCE '.' | SENTENCE '.' TEXT
SENTENCE -> OPENING | OPENING 'with' THING | CLAUSE | CLOSING | INSULT
OPENING -> 'The' SUBJECT ADVERB 'stands' PLACE | 'Here' 'the' SUBJECT ADVERB 'waits' PLACE
OPENING -> 'One' 'may' 'observe' 'how' 'the' SUBJECT ADVERB 'rests' PLACE
OPENING -> 'Anyone' 'passing' 'will' 'notice' 'the' SUBJECT 'that' ADVERB 'rests' PLACE
OPENING -> 'Look,' PLACE 'the' SUBJECT ADVERB 'dreams'
OPENING -> 'See' 'how' ADVERB 'the' SUBJECT 'shines' PLACE
CLAUSE -> 'We' 'think' 'of' 'the' THING | 'It' 'smells' 'of' THING
CLAUSE -> 'Its' 'story' 'brings' THING 'to' 'mind' | 'Those' 'who' 'know' 'it' 'speak' 'of' THING
CLAUSE -> 'Around' 'it' 'drifts' 'the' THING | 'Its' 'only' 'friend' 'is' 'the' THING
CLOSING -> 'It' 'is' 'a' ADJECTIVE 'day' | 'What' 'a' ADJECTIVE 'sight'
CLOSING -> 'Such' 'a' ADJECTIVE 'scene' 'deserves' 'our' 'attention'
CLOSING -> 'Few' 'scenes' 'seem' 'more' ADJECTIVE 'than' 'this'
CLOSING -> 'Oh' 'what' 'a' ADJECTIVE 'hour' | 'The' 'world' 'turns' ADJECTIVE 'around' 'it'
INSULT -> 'You' 'stupid' ABUSE
SUBJECT -> COLOUR NOUN | FILLER COLOUR NOUN
PLACE -> 'in' 'the' 'garden' | 'by' 'the' 'river' | 'on' 'the' 'hill' | 'at' 'the' 'market'
PLACE -> 'near' 'the' 'harbour' | 'in' 'the' 'kitchen' | 'under' 'the' 'bridge'
PLACE -> 'behind' 'the' 'barn' | 'beside' 'the' 'lake' | 'in' 'the' 'forest' | 'on' 'the' 'roof'
PLACE -> 'at' 'the' 'station'
"""
WORDS = {
    "NOUN": "lantern kettle boat clock ladder drum basket mirror violin teapot wagon statue "
    "umbrella piano candle barrel",
    "COLOUR": "red blue green yellow white black golden silver",
    "FILLER": "very old small quite rather tall tiny pretty",
    "THING": "wind rain bread music snow smoke honey thunder salt coffee",
    "ADVERB": "happily merrily quietly gently sadly mournfully politely properly cheekily wildly",
    "ADJECTIVE": "delightful joyful peaceful serene lonely gloomy dignified stately silly giggling",
    "ABUSE": "idiot damn crap",
}
_lexicon = "\n".join(
    f"{symbol} -> " + " | ".join(f"'{word}'" for word in words.split())
    for symbol, words in WORDS.items()
)
_parser = nltk.ChartParser(nltk.CFG.fromstring(RULES + _lexicon))


@cache
def derives(text: str) -> bool:
    """Whether the grammar derives a whole text, spaces and full stops included."""
    tokens = []
    for word in text.split(" "):
        tokens += [word[:-1], "."] if word.endswith(".") else [word]
    try:
        return next(iter(_parser.parse(tokens)), None) is not None
    except ValueError:  # a word that the grammar does not have
        return False
