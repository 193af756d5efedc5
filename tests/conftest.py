"""Fixtures every test module may use: tiny models with random weights (no download, made once a
session), a tiny language."""

from __future__ import annotations

import functools
import itertools
import os
import re
import subprocess
import sys
import time
import types
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.tensors import random

# a test that forgets itself fails at once instead of waiting for a hub
for _library in ("HF_HUB", "HF_DATASETS", "HF_EVALUATE"):
    os.environ.setdefault(f"{_library}_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ROOT = Path(__file__).parent.parent
# Fixtures that take long: the files that name one are run by one worker, and first.
SHARED = ("reproduction", "site")


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist, which may not be there
def pytest_xdist_make_scheduler(config, log):
    """What one worker runs of the suite: a file, or the files of a shared fixture."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return _group(nodeid)

    return ByGroup(config, log)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: (_group(item.nodeid) not in SHARED, _group(item.nodeid)))


@functools.cache
def _group_of_file(name: str) -> str:
    words = (ROOT / name).read_text(encoding="utf-8") if name.endswith(".py") else ""
    used = (one for one in SHARED if re.search(rf"\bdef \w+\([^)]*\b{one}\b", words))
    return next(used, name)


def _group(nodeid: str) -> str:
    return _group_of_file(nodeid.partition("::")[0])


WORDS = (
    "the a red green blue small old lamp rope chair boat book stands lies waits in on under near "
    "garden kitchen harbour "
    "please write about kind rude two three sentences mention avoid and it is very good bad you "
    "fool thank cat sat mat"
).split()


def word_tokenizer(**special: str):
    """A word-level tokenizer over WORDS; `template` appends T5's end token to a single text."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {
        token: i
        for i, token in enumerate(
            ["<pad>", "</s>", "<unk>", *(f"▁{word}" for word in WORDS), ".", ","]
        )
    }
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()]
    )
    tokenizer.decoder = decoders.Metaspace()
    if special.pop("template", ""):
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A </s>", special_tokens=[("</s>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        **special,
    )


def hub_response(status, url, **headers):
    """A response as huggingface_hub raises errors for it: of httpx2 or, before its release 2, of
    httpx."""
    from huggingface_hub.utils import _http

    library = next(vars(_http)[name] for name in ("httpx2", "httpx") if name in vars(_http))
    headers = {f"X-Error-{name.title()}": value for name, value in headers.items()}
    return library.Response(status, headers=headers, request=library.Request("GET", url))


@pytest.fixture(scope="session")
def tiny_t5():
    """(model, tokenizer): a T5 of two layers with random weights, dropout 0.1, in evaluation
    mode."""
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = word_tokenizer(template="$A </s>")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = T5ForConditionalGeneration(
            T5Config(
                vocab_size=len(tokenizer),
                d_model=32,
                d_kv=8,
                d_ff=64,
                num_layers=2,
                num_heads=4,
                dropout_rate=0.1,
                initializer_factor=8.0,
                pad_token_id=0,
                eos_token_id=1,
                decoder_start_token_id=0,
            )
        )
    return model.eval(), tokenizer


@pytest.fixture(scope="session")
def tiny_llama():
    """(model, tokenizer): a Llama of two layers with random weights, in evaluation mode."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = word_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=256,
                initializer_range=0.2,
                attention_dropout=0.1,
                pad_token_id=0,
                eos_token_id=1,
                bos_token_id=None,
            )
        )
    return model.eval(), tokenizer


@pytest.fixture
def world():
    """A tiny language whose sums can be written out: all 40 texts of at most 3 tokens over 3 token
    types, float64.

    sequences: the texts; ref [40]: log πref, an autoregressive model with random logits a prefix
    (index 3 ends the text); reward [40]; tau; log_z: log Σ_y πref(y)·exp(r(y)/τ); best [40]: log π*
    = ref + r/τ − log Z.
    """
    generator = torch.Generator().manual_seed(0)
    sequences = [s for length in range(4) for s in itertools.product(range(3), repeat=length)]
    step = {
        s: torch.randn(4, generator=generator, dtype=torch.float64).log_softmax(0)
        for s in sequences
        if len(s) < 3
    }
    ref = torch.stack(
        [
            sum(step[s[:i]][t] for i, t in enumerate(s)) + (step[s][3] if len(s) < 3 else 0)
            for s in sequences
        ]
    )
    reward = torch.randn(len(sequences), generator=generator, dtype=torch.float64)
    tau = 0.5
    log_z = (ref.exp() * (reward / tau).exp()).sum().log()
    return SimpleNamespace(
        sequences=sequences,
        ref=ref,
        reward=reward,
        tau=tau,
        log_z=log_z,
        best=ref + reward / tau - log_z,
    )


@pytest.fixture(scope="session")
def reproduction(tmp_path_factory):
    """The smoke profile reproduced once by the command a user types. out; cache (references);
    command(*more) -> argv; env; seconds; printed."""
    folder = tmp_path_factory.mktemp("reproduction")
    env = os.environ | {"RPO_NB_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    env.pop("RPO_NB_PROFILE", None)

    def command(out, *more):
        return [
            sys.executable,
            "-m",
            "rpo_nb",
            "reproduce",
            "--profile",
            "smoke",
            "--output-dir",
            str(out),
            *more,
        ]

    started = time.monotonic()
    done = subprocess.run(
        command(folder / "smoke"), cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return SimpleNamespace(
        out=folder / "smoke",
        cache=folder / "cache",
        command=command,
        env=env,
        seconds=time.monotonic() - started,
        printed=done.stdout,
    )


@pytest.fixture
def trl():
    """TRL's trainers; their tensors: 8 rows (4 chosen, then 4 rejected) of a 2-token prompt and up
    to 5 tokens."""
    trl = pytest.importorskip(
        "trl",
        reason="TRL is not installed (extra 'test'); its losses are what this test compares with",
    )
    if not hasattr(trl.KTOTrainer, "_compute_loss"):
        pytest.skip(
            f"TRL {trl.__version__} has its losses elsewhere; 1.x is what this test compares with"
        )
    lengths = torch.tensor([5, 3, 4, 1, 2, 5, 5, 3])
    mask = ((torch.arange(7) >= 2) & (torch.arange(7) < 2 + lengths[:, None])).long()
    tokens = [-random(8, 6, seed=s).abs() * mask[:, 1:] for s in (0, 1)]
    inputs = {"input_ids": torch.ones(8, 7).long(), "attention_mask": mask, "completion_mask": mask}
    return types.SimpleNamespace(
        trl=trl, inputs=inputs, lengths=lengths, policy=tokens[0], ref=tokens[1]
    )
