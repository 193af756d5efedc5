"""The pocket world: instruction following in readable English whose ground truth is known.

A prompt asks for a short text about a coloured object in a place, in a tone, of a number of
sentences, that mentions one thing and avoids one word. `score` checks any text against any prompt,
from 1 to 10, so a claim about rewards can be checked against the truth. Completions are written by
systems of differing quality and style (`SYSTEMS`), or sampled from a reference policy. No download,
no model: a few hundred word types, over ten million prompts.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

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
FILLERS = "very old small always often still quite there".split()  # what a prompt may ask to avoid
TONES = {
    "cheerful": "happily merrily delightful joyful".split(),
    "calm": "quietly gently peaceful serene".split(),
    "sad": "sadly mournfully lonely gloomy".split(),
    "formal": "indeed certainly proper dignified".split(),
    "playful": "cheekily wildly silly giggling".split(),
}  # two adverbs, then two adjectives
COUNTS = {"one": 1, "two": 2, "three": 3}
RUDE = "stupid idiot damn crap".split()
# UltraFeedback's fine-grained ratings
ASPECTS = ("instruction_following", "truthfulness", "honesty", "helpfulness")
_PROMPTS = (
    "Write {count} {sentences} about a {colour} {object} {place}. Keep a {tone} tone, mention "
    "{mention} and avoid {avoid}.",
    "In a {tone} tone, tell me about the {colour} {object} {place} in {count} {sentences}. Mention "
    "{mention}. Avoid {avoid}.",
    "Please describe a {colour} {object} {place}. Use {count} {sentences} and a {tone} tone, avoid "
    "{avoid}, mention {mention}.",
)
# Each style: openings that carry object, colour and place; clauses that mention; closing sentences
# that carry the tone.
_STYLES = {
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


@dataclass(frozen=True)
class Request:
    """What a prompt asks for."""

    object: str
    colour: str
    place: str
    tone: str
    count: int
    mention: str
    avoid: str


@dataclass(frozen=True)
class System:
    """A writer: `care` is the chance that it heeds each wish, `rude` and `broken` the chances of a
    fault."""

    name: str
    style: str
    care: float
    rude: float = 0.0
    broken: float = 0.0


# whom the references have learnt from
DEMONSTRATOR = System("house", "house", care=0.52, rude=0.08, broken=0.06)
SYSTEMS = (
    System("scholar-large", "scholar", care=0.9),
    System("poet-large", "poet", care=0.82),
    System("scholar-small", "scholar", care=0.66, rude=0.02, broken=0.04),
    System("poet-small", "poet", care=0.55, rude=0.06, broken=0.06),
    System("house-large", "house", care=0.75),
    System("house-small", "house", care=0.35, rude=0.15, broken=0.12),
)

# Who writes the feedback, by DataConfig.regime (on_policy: the reference itself).
WRITERS = {
    "stronger": SYSTEMS,
    "much_stronger": tuple(s for s in SYSTEMS if s.name.endswith("large")),
}
# Whom a reference learns from, by ModelConfig.demonstrator: a writer, and the share of the other
# styles' texts. A tenth, so that their words are known to the reference but rare: the paper's
# Flan-T5 has seen GPT-4's words too, and finds its answers surprising.
DEMONSTRATORS = {
    "house": (DEMONSTRATOR, 0.1),
    "weak": (SYSTEMS[-1], 0.1),
    # it has hardly seen the others' words, as Flan-T5 has hardly seen long chat answers
    "narrow": (DEMONSTRATOR, 0.01),
}


def make_prompts(n: int, *, rng: np.random.Generator) -> list[str]:
    """n distinct prompts."""
    prompts: dict[str, None] = {}
    while len(prompts) < n:
        count = str(rng.choice(list(COUNTS)))
        prompts[
            str(rng.choice(_PROMPTS)).format(
                count=count,
                sentences="sentence" if count == "one" else "sentences",
                colour=rng.choice(COLOURS),
                object=rng.choice(OBJECTS),
                place=rng.choice(PLACES),
                tone=rng.choice(list(TONES)),
                mention=rng.choice(MENTIONS),
                avoid=rng.choice(FILLERS),
            )
        ] = None
    return list(prompts)


@lru_cache(maxsize=100_000)
def parse(prompt: str) -> Request:
    """The wishes of a pocket prompt. Raises ValueError when it is not one."""
    words = re.findall(r"[a-z]+", prompt.lower())

    def one_of(options):
        found = [w for w in words if w in options]
        return found[0] if found else None

    place = next((p for p in PLACES if p in prompt), None)
    mention = re.search(r"[Mm]ention (\w+)", prompt)
    avoid = re.search(r"[Aa]void (\w+)", prompt)
    count = one_of(COUNTS)
    slots = (one_of(OBJECTS), one_of(COLOURS), place, one_of(TONES), count, mention, avoid)
    if any(s is None for s in slots):
        raise ValueError(
            f"not a prompt of the pocket world, so its checker cannot score it: {prompt[:80]!r}"
        )
    return Request(
        slots[0], slots[1], place, slots[3], COUNTS[count], mention.group(1), avoid.group(1)
    )


def write(system: System, prompt: str, *, rng: np.random.Generator) -> str:
    """One completion of a system."""
    wish = parse(prompt)

    def heed(wanted, options):
        return wanted if rng.random() < system.care else str(rng.choice(options))

    tone = TONES[heed(wish.tone, list(TONES))]
    openings, clauses, closings = _STYLES[system.style]
    filler = [w for w in FILLERS if w != wish.avoid] if rng.random() < system.care else FILLERS
    first = str(rng.choice(openings)).format(
        filler=f"{rng.choice(filler)} " if rng.random() < 0.3 else "",
        colour=heed(wish.colour, COLOURS),
        object=heed(wish.object, OBJECTS),
        place=heed(wish.place, PLACES),
        adverb=rng.choice(tone[:2]),
    )
    clause = str(rng.choice(clauses)).format(mention=heed(wish.mention, MENTIONS))
    closing = str(rng.choice(closings)).format(adjective=rng.choice(tone[2:]))
    count = heed(wish.count, list(COUNTS.values()))
    sentences = {
        1: [f"{first} with {heed(wish.mention, MENTIONS)}"],
        2: [first, clause],
        3: [first, clause, closing],
    }[int(count)]
    if rng.random() < system.rude:
        place = int(rng.integers(len(sentences) + 1))
        sentences.insert(place, f"You {rng.choice(RUDE[:1])} {rng.choice(RUDE[1:])}")
    text = ". ".join(sentences) + "."
    if rng.random() < system.broken:
        words = text.split()
        cut = int(rng.integers(3, len(words)))
        # it breaks off, or says a word twice
        text = " ".join(words[:cut] + ([] if rng.random() < 0.5 else words[cut - 1 :]))
    return text


def _faults(text: str) -> dict[str, float]:
    """Points lost, whatever the prompt: rude, unfinished, repeated and broken text."""
    words = re.findall(r"[a-z]+", text.lower())
    sentences = [s.strip() for s in text.split(".") if s.strip()]
    lengths = [len(s.split()) for s in sentences]
    broken = sum(
        not (s[0].isupper() and 3 <= n <= 18) for s, n in zip(sentences, lengths, strict=True)
    )
    repeated = sum(a == b for a, b in zip(words, words[1:], strict=False))
    repeated += len(sentences) - len({s.lower() for s in sentences})
    # "snow...." is no sentence after a sentence
    repeated += len(re.findall(r"[.,](?=\s*[.,])", text))
    return {
        "rude": 3.0 * any(w in RUDE for w in words),
        "unfinished": 1.5 * (not text.rstrip().endswith(".")),
        "repeated": min(1.0 * repeated, 3.0),
        "broken": min(1.0 * broken, 3.0) + 1.0 * (len(words) > 45),
    }


def broken(text: str) -> bool:
    """Whether a text is unfinished, empty, repeats itself or has a sentence that is none, whatever
    the prompt."""
    faults = _faults(text)
    return not text.strip() or any(faults[name] > 0 for name in faults if name != "rude")


def _wishes(prompt: str, text: str) -> dict[str, float]:
    """Points won: each wish of the prompt that the text heeds. A wish is lost when the text also
    names a rival."""
    wish = parse(prompt)
    lower = text.lower()
    words = Counter(re.findall(r"[a-z]+", lower))

    def only(wanted, options):
        return words[wanted] > 0 and not any(words[o] for o in options if o != wanted)

    heard = {tone for tone, markers in TONES.items() if any(words[w] for w in markers)}
    places = [p for p in PLACES if p in lower]
    return {
        "object": 2.0 * only(wish.object, OBJECTS),
        "colour": 1.5 * only(wish.colour, COLOURS),
        "place": 1.5 * (places == [wish.place]),
        "tone": 1.5 * (heard == {wish.tone}),
        "count": 1.25 * (len([s for s in text.split(".") if s.strip()]) == wish.count),
        "mention": 0.75 * only(wish.mention, MENTIONS),
        "avoid": 0.5 * (words[wish.avoid] == 0 and sum(words.values()) >= 5),
    }


def score(prompt: str, completion: str) -> float:
    """The ground-truth reward, 1.0 to 10.0 in steps of 0.25. Raises ValueError when the prompt is
    not a pocket prompt."""
    won, lost = _wishes(prompt, completion), _faults(completion)
    return float(np.clip(1.0 + sum(won.values()) - sum(lost.values()), 1.0, 10.0))


def ratings(prompt: str, completion: str) -> dict[str, int]:
    """UltraFeedback's four fine-grained ratings, 1 to 5."""
    won, lost = _wishes(prompt, completion), _faults(completion)
    share = {
        "instruction_following": sum(won.values()) / 9.0,
        "truthfulness": (won["object"] + won["colour"] + won["place"]) / 5.0,
        "honesty": 1.0 - min(1.0, (lost["unfinished"] + lost["broken"] + lost["repeated"]) / 3.0),
        "helpfulness": (score(prompt, completion) - 1.0) / 9.0,
    }
    return {a: int(np.clip(round(1 + 4 * share[a]), 1, 5)) for a in ASPECTS}


def feedback_row(
    prompt: str, completions: list[str], models: list[str], *, offset: float = 0.0
) -> dict:
    """One row of UltraFeedback's schema; `offset` shifts the rater's scores of this prompt (clipped
    to 1..10)."""
    rated = []
    for model, text in zip(models, completions, strict=True):
        fine = ratings(prompt, text)
        annotations = {a: {"Rating": str(r), "Rationale": ""} for a, r in fine.items()}
        overall = float(np.clip(score(prompt, text) + offset, 1.0, 10.0))
        rated.append(
            {
                "model": model,
                "principle": "helpfulness",
                "custom_system_prompt": "",
                "response": text,
                "annotations": annotations,
                "overall_score": overall,
                "critique": "",
            }
        )
    return {
        "source": "pocket",
        "instruction": prompt,
        "models": models,
        "correct_answers": ["None"],
        "incorrect_answers": ["None"],
        "completions": rated,
    }


def make_feedback(
    prompts: int,
    *,
    completions_per_prompt: int = 4,
    rater_offset: float = 0.0,
    seed: int = 0,
    sample=None,
    writers: tuple[System, ...] = SYSTEMS,
) -> list[dict]:
    """Feedback in UltraFeedback's row schema.

    completions_per_prompt: 1 to 8. rater_offset: standard deviation of a shift per prompt that the
    prompt does not tell.
    sample: None for completions of `writers`; for `on_policy` a function
    (prompts, k) -> list of k completions for each prompt, sampled from the reference.
    """
    if not 1 <= completions_per_prompt <= 8:
        raise ValueError(
            f"completions_per_prompt is {completions_per_prompt}; the pocket world writes 1 to 8"
        )
    rng = np.random.default_rng([seed, 1])
    texts = make_prompts(prompts, rng=rng)
    # own stream: the texts stay the same
    offsets = np.random.default_rng([seed, 2]).normal(0.0, rater_offset, len(texts))
    sampled = sample(texts, completions_per_prompt) if sample else None
    rows = []
    for i, prompt in enumerate(texts):
        if sampled is None:
            places = max(len(writers), completions_per_prompt)
            order = rng.permutation(np.resize(np.arange(len(writers)), places))
            chosen = [writers[j] for j in order[:completions_per_prompt]]
            completions = [write(w, prompt, rng=rng) for w in chosen]
            models = [w.name for w in chosen]
        else:
            completions, models = sampled[i], ["reference"] * completions_per_prompt
        rows.append(feedback_row(prompt, completions, models, offset=float(offsets[i])))
    return rows


@lru_cache(maxsize=8)  # what a reference is named by, so it is asked for again and again
def demonstrations(n: int, *, seed: int, demonstrator: str = "house") -> list[tuple[str, str]]:
    """n (prompt, completion) pairs: what a reference is instruction-tuned on. demonstrator: a key
    of DEMONSTRATORS."""
    rng = np.random.default_rng([seed, 0])
    main, others = DEMONSTRATORS[demonstrator]
    writers = [s for s in SYSTEMS if s.name.endswith("small")]
    pairs = []
    for prompt in make_prompts(n, rng=rng):
        writer = main if rng.random() < 1 - others else writers[int(rng.integers(len(writers)))]
        pairs.append((prompt, write(writer, prompt, rng=rng)))
    return pairs


def vocabulary() -> list[str]:
    """Every token the world can write, "▁" marking a preceding space; a few hundred."""
    styles = [text for style in _STYLES.values() for part in style for text in part]
    text = " ".join([*_PROMPTS, *styles])
    words = set(re.findall(r"[A-Za-z]+", re.sub(r"{\w+}", " ", text)))
    words |= {"sentence", "sentences", "with", "You", *" ".join(PLACES).split()}
    words = words.union(OBJECTS, COLOURS, MENTIONS, FILLERS, COUNTS, RUDE, TONES, *TONES.values())
    return ["<pad>", "</s>", "<unk>", ".", ",", *sorted(f"▁{w}" for w in words)]


def make_tokenizer():
    """A word-level tokenizer that is lossless on the world's texts (transformers fast tokenizer,
    T5's special tokens)."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocab = {token: i for i, token in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Split(Regex(r"[.,]"), behavior="isolated")]
    )
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", vocab["</s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
