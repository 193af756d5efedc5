"""Generation with an explicit set-up, and the metrics of Table II over generated completions."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from . import metrics
from .config import METHODS, DecodingConfig, EvaluationConfig
from .policy import encode

# Generation -------------------------------------------------------------------------------------------------------


def released_decoding(method: str, decoding: DecodingConfig) -> DecodingConfig:
    """How the authors' code decodes a method: KTO greedily, the others by sampling (so its Table II compares unlike things).

    Only the length limit is taken from `decoding`; theirs is 768 tokens. Raises ValueError for an unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r} is unknown; the methods are {', '.join(METHODS)}")
    if method == "kto":
        return DecodingConfig(do_sample=False, max_new_tokens=decoding.max_new_tokens)
    return DecodingConfig(temperature=0.7, top_k=50, top_p=0.95, repetition_penalty=1.2, no_repeat_ngram_size=3,
                          max_new_tokens=decoding.max_new_tokens)


def generate(model: nn.Module, tokenizer: Any, prompts: Sequence[str], *, decoding: DecodingConfig, seed: int,
             max_prompt_tokens: int, batch_size: int) -> list[str]:
    """One completion a prompt, in the prompts' order, special tokens and outer white space removed; an empty one is "".

    T5-like and causal models (left padding there). Prompts are encoded as for training and batched by length. The same
    seed, prompts and batch size give the same texts on the same machine; the caller's random state is left untouched, and
    so is whether the model is training. Raises ValueError naming the prompt that has no token.
    """
    seq2seq = model.config.is_encoder_decoder
    rows = encode(tokenizer, prompts, [""] * len(prompts), max_prompt_tokens=max_prompt_tokens, max_completion_tokens=1)
    encoded = [ids for ids, _ in rows]
    empty = next((i for i, ids in enumerate(encoded) if not ids), None)
    if empty is not None:
        raise ValueError(f"prompt {empty} ({prompts[empty]!r}) has no token; remove it before generating")
    order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]), reverse=True)  # the longest first: memory shows at once
    texts = [""] * len(prompts)
    with _generating(model, seed) as core:
        setup = _generation_config(core, tokenizer, decoding)
        for rows in metrics.batches(order, batch_size):
            ids = [torch.tensor(encoded[i]) for i in rows]
            side = "right" if seq2seq else "left"
            inputs = pad_sequence(ids, batch_first=True, padding_value=setup.pad_token_id, padding_side=side).to(core.device)
            mask = pad_sequence([torch.ones_like(x) for x in ids], batch_first=True, padding_side=side).to(core.device)
            out = core.generate(input_ids=inputs, attention_mask=mask, generation_config=setup)
            new = out if seq2seq else out[:, inputs.shape[1]:]
            decoded = tokenizer.batch_decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            for i, text in zip(rows, decoded, strict=True):
                texts[i] = text.strip()
    return texts


@contextmanager
def _generating(model: nn.Module, seed: int) -> Iterator[nn.Module]:
    """The model that generates: evaluation mode, no gradient, its own random stream, none of its checkpoint's defaults."""
    from transformers import GenerationConfig

    # peft's wrapper copies its own generation_config over; the model inside has the adapters in its layers all the same.
    core = model.get_base_model() if hasattr(model, "get_base_model") else model
    training, inherited = model.training, core.generation_config
    model.eval()
    # transformers fills every field left open from the checkpoint's generation_config.json; an empty one gives nothing.
    core.generation_config = GenerationConfig()
    try:
        with torch.inference_mode(), torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(seed)
            yield core
    finally:
        core.generation_config = inherited
        model.train(training)


def _generation_config(model: nn.Module, tokenizer: Any, decoding: DecodingConfig) -> Any:
    """Everything that generation depends on, spelled out."""
    from transformers import GenerationConfig

    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    sampling = decoding.model_dump(include={"temperature", "top_k", "top_p"}) if decoding.do_sample else {}
    return GenerationConfig(
        do_sample=decoding.do_sample, num_beams=1, max_new_tokens=decoding.max_new_tokens,
        repetition_penalty=decoding.repetition_penalty, no_repeat_ngram_size=decoding.no_repeat_ngram_size, **sampling,
        pad_token_id=pad, eos_token_id=tokenizer.eos_token_id,  # the end that the completions were trained with
        decoder_start_token_id=getattr(model.config, "decoder_start_token_id", None))


# Metrics ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MetricValue:
    """One metric of one cell. value None: not measured, and reason says why. per_item [n] where the metric is a mean of
    items; ci then is the 95 % percentile interval of that mean over items (None for one item, or a corpus metric)."""

    value: float | None
    per_item: np.ndarray | None = None
    ci: tuple[float, float] | None = None
    reason: str = ""


@dataclass(frozen=True)
class _Resource:
    """Something loaded, or the reason why not."""

    use: Any
    label: str = ""
    reason: str = ""


def _load(what: str, make: Callable[[], tuple[Any, str]]) -> _Resource:
    try:
        return _Resource(*make())
    except (OSError, ImportError, LookupError) as error:
        # The reason goes into tables, so it is the same everywhere; the library's own words, paths and all, go to the reader.
        warnings.warn(f"{what} could not be loaded: {error}", stacklevel=2)
        return _Resource(None, reason=f"{what} could not be loaded ({type(error).__name__})")


class MetricSuite:
    """The metrics of Table II and those beside them, over the texts of one cell or of many.

    Models are loaded on first use and kept. What cannot be loaded gives a MetricValue without value, never a made-up number.
    """

    def __init__(self, config: EvaluationConfig, *, resamples: int = 2000, seed: int = 0):
        """resamples, seed: of the bootstrap; every cell draws the same items."""
        self.config, self.resamples, self.seed = config, resamples, seed

    @cached_property
    def _bertscore(self) -> _Resource:
        def make():
            scorer = metrics.BertScore(self.config.bertscore)
            return scorer.f1, scorer.label

        return _load(f"the BERTScore model {Path(self.config.bertscore).name!r}", make)

    @cached_property
    def _toxicity(self) -> _Resource:
        return _load(f"the toxicity model {self.config.toxicity!r}", lambda: metrics.load_toxicity(self.config.toxicity))

    @cached_property
    def _wordnet(self) -> _Resource:
        return _load("WordNet", metrics.load_wordnet)

    def score(self, prompts: Sequence[str], completions: Sequence[str], references: Sequence[str],
              rewards: Sequence[float] | None = None) -> dict[str, MetricValue]:
        """The metrics of one cell: n prompts, their completions, the references they are compared with, raw rewards [n].

        bertscore_f1, rouge_l, bleu, meteor, toxicity, distinct_1, distinct_2, self_bleu in 0..1; sacrebleu in 0..100;
        length_ratio; reward in the rewards' unit, only when given. Raises ValueError for lengths that differ, no row at
        all, a reference without a word, a reward that is not finite.
        """
        cell = {"prompts": prompts, "completions": completions, "references": references, "rewards": rewards}
        return self.score_many([cell])[0]

    def score_many(self, cells: Sequence[Mapping[str, Any]]) -> list[dict[str, MetricValue]]:
        """`score` of many cells (each the keywords of `score`), every distinct text and pair measured only once."""
        for number, cell in enumerate(cells):
            _check(number, **cell)
        if not cells:
            return []
        pairs = sorted({pair for cell in cells for pair in _pairs(cell)})
        texts = sorted({completion for completion, _ in pairs})
        by_pair = {
            "bertscore_f1": _measure(self._bertscore, pairs), "rouge_l": dict(zip(pairs, metrics.rouge_l(pairs), strict=True)),
            "meteor": dict(zip(pairs, metrics.meteor(pairs, self._wordnet.use), strict=True)),
            "length_ratio": dict(zip(pairs, metrics.length_ratio(pairs), strict=True))}
        by_text = {"toxicity": _measure(self._toxicity, texts)}
        return [self._cell(cell, by_pair, by_text) for cell in cells]

    def _cell(self, cell: Mapping[str, Any], by_pair: dict[str, Any], by_text: dict[str, Any]) -> dict[str, MetricValue]:
        completions, references = list(cell["completions"]), list(cell["references"])
        keyed = [(name, table, _pairs(cell)) for name, table in by_pair.items()]
        keyed += [(name, table, completions) for name, table in by_text.items()]
        items = {name: np.array([table[key] for key in keys]) for name, table, keys in keyed if not isinstance(table, str)}
        if cell.get("rewards") is not None:
            items["reward"] = np.asarray(cell["rewards"], dtype=float)
        values = dict(zip(items, self._means(items), strict=True))
        values |= {name: MetricValue(None, reason=table) for name, table, _ in keyed if isinstance(table, str)}
        bleu, sacrebleu = metrics.corpus_bleu(completions, references)
        values |= {"bleu": MetricValue(bleu), "sacrebleu": MetricValue(sacrebleu)}
        for n in (1, 2):
            value = metrics.distinct(completions, n)
            values[f"distinct_{n}"] = MetricValue(value, reason="" if value is not None else f"no completion has {n}-grams")
        own = metrics.self_bleu(completions)
        # Items of self-BLEU are each other's references: resampling them would not give an interval.
        values["self_bleu"] = (MetricValue(float(own.mean()), own) if own is not None
                               else MetricValue(None, reason="one completion has no others"))
        return {name: values[name] for name in METRICS if name in values}

    def _means(self, items: dict[str, np.ndarray]) -> list[MetricValue]:
        """Mean and interval of each row of items, all rows resampled alike (scipy does them in one go)."""
        from scipy.stats import bootstrap

        table = np.stack(list(items.values()))
        intervals: list = [None] * len(table)
        if table.shape[1] > 1:
            drawn = bootstrap((table,), np.mean, axis=-1, n_resamples=self.resamples, method="percentile", batch=250,
                              rng=np.random.default_rng(self.seed)).confidence_interval
            intervals = list(zip(drawn.low.tolist(), drawn.high.tolist(), strict=True))
        return [MetricValue(float(row.mean()), row, ci) for row, ci in zip(table, intervals, strict=True)]

    @property
    def footnotes(self) -> list[str]:
        """One sentence a metric: library, version, model or resource, scale; or why it was not measured."""
        bertscore, toxicity, wordnet = self._bertscore, self._toxicity, self._wordnet
        synonyms = f"with the synonyms of WordNet 3.0 ({wordnet.label})"
        if not wordnet.use:
            synonyms = f"exact and stem matches only, no synonyms: {wordnet.reason}"
        return [
            f"BERTScore F1: bert-score {version('bert-score')}, {bertscore.label}, no idf, no rescaling." if bertscore.use
            else f"BERTScore F1: not measured: {bertscore.reason}",
            f"ROUGE-L: rouge-score {version('rouge-score')}, F-measure without stemming, mean of items.",
            "BLEU (0..1): unsmoothed over 13a tokens, as Hugging Face's evaluate defines it; here computed by sacrebleu.",
            f"SacreBLEU (0..100): nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{version('sacrebleu')}.",
            f"METEOR: nltk {version('nltk')}, {synonyms}.",
            f"Toxicity: {toxicity.label}, mean of items." if toxicity.use else f"Toxicity: not measured: {toxicity.reason}",
            "distinct-n: share of distinct n-grams, lower case; self-BLEU: sacrebleu's sentence BLEU with a cell's other "
            "completions as references; length ratio: words of completion by words of reference.",
            "Intervals: 95 %, percentile bootstrap over items with a fixed seed.",
        ]


METRICS = ("bertscore_f1", "rouge_l", "bleu", "sacrebleu", "meteor", "toxicity", "distinct_1", "distinct_2", "self_bleu",
           "length_ratio", "reward")


def _pairs(cell: Mapping[str, Any]) -> list[metrics.Pair]:
    return list(zip(cell["completions"], cell["references"], strict=True))


def _measure(resource: _Resource, keys: list) -> dict | str:
    """key -> value, or the reason why there is none."""
    return resource.reason if resource.use is None else dict(zip(keys, np.asarray(resource.use(keys), dtype=float), strict=True))


def _check(number: int, prompts: Sequence[str], completions: Sequence[str], references: Sequence[str],
           rewards: Sequence[float] | None = None) -> None:
    where = f"cell {number}"
    lengths = [len(column) for column in (prompts, completions, references, rewards) if column is not None]
    if len(set(lengths)) > 1 or not lengths[0]:
        raise ValueError(f"{where}: prompts, completions, references, rewards have {lengths} rows; give the same number, above 0")
    blank = next((i for i, text in enumerate(references) if not text.split()), None)
    if blank is not None:
        raise ValueError(f"{where}: reference {blank} has no word; leave its row out")
    if rewards is not None and not np.isfinite(np.asarray(rewards, dtype=float)).all():
        raise ValueError(f"{where}: reward {int(np.argmin(np.isfinite(rewards)))} is not finite; leave its row out")
