"""Generations in the formats of AlpacaEval, lm-evaluation-harness and MT-Bench, so that their own
scorers can take them.

AlpacaEval: a JSON list of {instruction, output, generator, dataset}. lm-evaluation-harness: the
JSON lines of --log_samples, samples_<task>_<date>.jsonl. MT-Bench: FastChat's model_answer lines.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rpo_nb.config.schema import DecodingConfig
from rpo_nb.data.prompts import render
from rpo_nb.evaluation.prompt_sets import PromptSet
from rpo_nb.store import atomic_write, read_json, write_json

DATE = "2000-01-01T00-00-00.000000"  # the harness reads one from the name; ours tells no time
SET = "prompts.json"  # in a set's folder: which prompts its files are of
TASKS = {"ifeval": "ifeval", "mt_bench": "mt_bench", "alpaca_eval": "alpaca_eval"}


def conversation(turns: Sequence[str], replies: Sequence[str]) -> list[dict[str, str]]:
    """What the user and the policy said in turn, up to the user's next turn."""
    said: list[dict[str, str]] = []
    for i, turn in enumerate(turns[: len(replies) + 1]):
        said.append({"role": "user", "content": turn})
        if i < len(replies):
            said.append({"role": "assistant", "content": replies[i]})
    return said


def prompt_text(turns: Sequence[str], replies: Sequence[str]) -> str:
    """What a policy read last, as text: the prompt, or the conversation before its last reply."""
    return turns[0] if len(replies) < 2 else render(conversation(turns, replies[:-1]))


def alpaca_eval(prompts: PromptSet, replies: Sequence[Sequence[str]], generator: str) -> list[dict]:
    """The outputs of one policy. replies: of each prompt, one a turn; of a conversation the last
    counts, and the instruction is all that was said before it."""
    return [
        {
            "instruction": prompt_text(turns, said),
            "output": said[-1],
            "generator": generator,
            "dataset": str(doc.get("dataset", prompts.name)),
        }
        for turns, said, doc in zip(prompts.turns, replies, prompts.docs, strict=True)
    ]


def lm_eval_samples(
    prompts: PromptSet, replies: Sequence[Sequence[str]], decoding: DecodingConfig
) -> list[dict]:
    """The samples of one policy as the harness logs them, without metrics: its scorers add those.

    Fields and hashes as in its evaluator: doc as in the file, target "", arguments gen_args_0 of
    prompt and generation settings, resps and filtered_resps (filter "none").
    """
    given = {
        "do_sample": decoding.do_sample,
        "max_gen_toks": decoding.max_new_tokens,
        "temperature": decoding.temperature if decoding.do_sample else 0.0,
        "until": [],
    }
    target: int | str = 0 if prompts.kind == "ifeval" else ""  # its task says doc_to_target: 0
    rows = []
    for number, (turns, said, doc) in enumerate(
        zip(prompts.turns, replies, prompts.docs, strict=True)
    ):
        prompt = prompt_text(turns, said)
        rows.append(
            {
                "doc_id": number,
                "doc": doc,
                "target": target,
                "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": given}},
                "resps": [[said[-1]]],
                "filtered_resps": [said[-1]],
                "filter": "none",
                "metrics": [],
                "doc_hash": _sha256(json.dumps(doc, indent=2, ensure_ascii=False)),
                "prompt_hash": _sha256(prompt),
                "target_hash": _sha256(str(target)),
            }
        )
    return rows


def mt_bench(prompts: PromptSet, replies: Sequence[Sequence[str]], generator: str) -> list[dict]:
    """FastChat's model_answer lines of one policy; its judge reads question_id and turns."""
    return [
        {
            "question_id": doc.get("question_id", number),
            "answer_id": _sha256(f"{generator} {number}")[:22],
            "model_id": generator,
            "choices": [{"index": 0, "turns": list(said)}],
            "tstamp": 0.0,
        }
        for number, (said, doc) in enumerate(zip(replies, prompts.docs, strict=True))
    ]


def export(
    folder: Path,
    prompts: PromptSet,
    replies: Sequence[Sequence[str]],
    generator: str,
    decoding: DecodingConfig,
) -> list[Path]:
    """Write a policy's generations below a folder: alpaca_eval/<policy>.json and
    lm_eval/<policy>/samples_<task>_<date>.jsonl, of MT-Bench also mt_bench/<policy>.jsonl. The same
    generations give the same bytes. Files there of other prompts are removed first."""
    about = {"prompts": prompts.key}
    if not (folder / SET).is_file() or read_json(folder / SET) != about:
        shutil.rmtree(folder, ignore_errors=True)
        write_json(folder / SET, about)
    task = TASKS.get(prompts.kind, prompts.name)
    samples = folder / "lm_eval" / generator / f"samples_{task}_{DATE}.jsonl"
    written = [
        write_json(
            folder / "alpaca_eval" / f"{generator}.json", alpaca_eval(prompts, replies, generator)
        ),
        atomic_write(samples, _lines(lm_eval_samples(prompts, replies, decoding))),
    ]
    if prompts.kind == "mt_bench":
        answers = mt_bench(prompts, replies, generator)
        written.append(atomic_write(folder / "mt_bench" / f"{generator}.jsonl", _lines(answers)))
    return written


def _lines(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
