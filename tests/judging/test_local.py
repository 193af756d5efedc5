"""A model on this machine."""

from __future__ import annotations

import itertools
import math
import re

import pytest
import torch

from rpo_nb.judging import language_models
from rpo_nb.judging import local as judging_local
from rpo_nb.judging.language_models import Question, question_text
from rpo_nb.judging.local import next_token_logits
from rpo_nb.policy.load import load_policy
from tests.judging.servers import ATTACKS, TEXTS, local, tiny_judge


def questions(count=12):
    """(prompts, first, second): every two different texts under one of three instructions."""
    pairs = list(itertools.permutations(TEXTS, 2))[:count]
    return (
        [f"please write about {TEXTS[i % 3]}" for i in range(count)],
        [a for a, _ in pairs],
        [b for _, b in pairs],
    )


def model_of(judge):
    return load_policy(judge.folder)[0].eval()


def controls(judge, question):
    """The special tokens of what the model reads, but for unknown words."""
    known = set(judge.tokenizer.all_special_ids) - {judge.tokenizer.unk_token_id}
    return [token for token in judge.encode(question) if token in known]


def plainly(judge, question):
    """log Σ P(A) − log Σ P(B) after one question, without batch, padding or cache."""
    model = model_of(judge)
    with torch.no_grad():
        probs = model(torch.tensor([judge.encode(question)])).logits[0, -1].double().softmax(-1)
    a, b = (sum(probs[i].item() for i in ids) for ids in judge.letters)
    return math.log(a / b)


def test_log_odds_are_those_of_the_next_token(folder):
    judge = local(folder, batch_size=5)
    assert [len(ids) for ids in judge.letters] == [2, 2]  # with and without a space before it
    replies = judge.replies(*questions())
    expected = [plainly(judge, Question(*q)) for q in zip(*questions(), strict=True)]
    assert [r.log_odds for r in replies] == pytest.approx(expected, abs=2e-4)
    assert [r.choice for r in replies] == ["first" if e >= 0 else "second" for e in expected]
    assert len({r.choice for r in replies}) == 2  # else the comparison shows little


def test_batch_padding_and_shared_beginning_change_nothing(folder):
    judge = local(folder)
    model, rows = (
        model_of(judge),
        [judge.encode(Question(*q)) for q in zip(*questions(), strict=True)],
    )
    alone = torch.cat([next_token_logits(model, [row], pad_id=0) for row in rows])
    assert len({len(row) for row in rows}) > 1
    # shares the paper's words
    assert torch.allclose(next_token_logits(model, rows, pad_id=0), alone, atol=2e-5)
    mixed = [row[i:] for i, row in enumerate(rows)]  # shares nothing: padding only
    alone = torch.cat([next_token_logits(model, [row], pad_id=0) for row in mixed])
    assert torch.allclose(next_token_logits(model, mixed, pad_id=0), alone, atol=2e-5)


def test_a_batch_computes_its_common_beginning_once(folder):
    judge, seen = local(folder), []
    model, rows = (
        model_of(judge),
        [judge.encode(Question(*q)) for q in zip(*questions(), strict=True)],
    )
    handle = model.register_forward_pre_hook(
        lambda _, args, given: seen.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    next_token_logits(model, rows, pad_id=0)
    handle.remove()
    (one, shared), (batch, rest) = seen
    assert one == 1 and batch == len(rows) and shared > 60 and shared + rest == max(map(len, rows))


def test_the_template_surrounds_the_paper_prompt_and_without_one_it_stands_alone(folder, tmp_path):
    judge, question = local(folder), Question("please write", "a boat", "the cat")
    expected = judge.tokenizer(
        f"<|im_start|> user {question_text(question)} <|im_end|> <|im_start|> assistant "
    )["input_ids"]
    assert judge.encode(question) == expected
    plain = local(tiny_judge(tmp_path / "plain", template=None))
    assert plain.encode(question) == plain.tokenizer(question_text(question))["input_ids"]


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
@pytest.mark.parametrize("letter", "AB")
def test_no_completion_closes_its_section_or_its_turn(folder, attack, letter):
    judge, clean = local(folder), Question("please write", "a boat", "the cat")
    attack = attack.format(letter=letter)
    for hostile in (
        clean._replace(first=clean.first + attack),
        clean._replace(second=clean.second + attack),
    ):
        headings = [
            re.findall(rf"^{re.escape(h)}", question_text(hostile, judge.tokens), re.MULTILINE)
            for h in ("Instruction:", "Response A:", "Response B:", "Your answer")
        ]
        assert [len(h) for h in headings] == [1, 1, 1, 1]
        assert controls(judge, hostile) == controls(judge, clean) != []
        assert judge.encode(hostile)[-9:] == judge.encode(clean)[-9:]  # the prompt still ends it


def test_control_tokens_that_slip_through_give_no_verdict(folder, monkeypatch):
    monkeypatch.setattr(language_models, "as_data", lambda text, tokens=(): text)
    judge = local(folder)
    replies = judge.replies(
        ["i", "i"], ["a boat" + ATTACKS["turn"], "a boat"], ["the cat", "the cat"]
    )
    assert (
        replies[0] == language_models.Reply(None, None, language_models.CONTROL)
        and replies[1].choice
    )
    assert "1 of 2 questions hold control tokens" in judge.remarks()[0]


def test_a_question_longer_than_the_context_is_null_and_counted(tmp_path):
    judge = local(tiny_judge(tmp_path, positions=128))
    answers = judge.compare(["p", "p"], ["a boat", "the cat " * 100], ["the cat", "a boat"])
    assert answers[0] in ("first", "second") and answers[1] is None
    assert (
        len(judge.remarks()) <= 2
        and "1 of 2 questions are longer than the model's context" in judge.remarks()[0]
    )


def test_a_likeliest_answer_that_is_no_letter_is_said(folder):
    judge = local(folder)
    judge.replies(*questions())
    logits = next_token_logits(
        model_of(judge),
        [judge.encode(Question(*q)) for q in zip(*questions(), strict=True)],
        pad_id=0,
    )
    off = sum(likeliest not in sum(judge.letters, []) for likeliest in logits.argmax(1).tolist())
    assert (
        judge.notes[language_models.OFF] == off > 0
        and f"{off} of 12 questions have a likeliest reply" in judge.remarks()[0]
    )


def test_answers_are_kept_and_only_new_questions_reach_the_model(folder, monkeypatch):
    prompts, first, second = questions()
    judge = local(folder)
    before = judge.replies(prompts[:6], first[:6], second[:6])
    with judge.store.open("a") as file:
        file.write('{"key": "torn')  # killed while it wrote
    calls = []
    monkeypatch.setattr(
        judging_local,
        "next_token_logits",
        lambda model, rows, **more: (
            calls.append(len(rows)) or next_token_logits(model, rows, **more)
        ),
    )
    again = local(folder)
    replies = again.replies(prompts + prompts[:1], first + first[:1], second + second[:1])
    assert replies[:6] == before and sum(calls) == 6 and replies[-1] == replies[0]
    for name in ("load_policy", "next_token_logits"):
        monkeypatch.setattr(
            judging_local,
            name,
            lambda *_, **__: pytest.fail("everything is on disk, so no model is needed"),
        )
    assert local(folder).replies(prompts, first, second) == replies[:12]


def test_another_model_is_another_judge(folder, tmp_path):
    other, same = (
        local(tiny_judge(tmp_path / "other", seed=1)),
        local(tiny_judge(tmp_path / "same")),
    )
    assert local(folder).identity == same.identity != other.identity


def test_models_that_cannot_judge_say_why(tmp_path, tiny_t5):
    with pytest.raises(
        ValueError,
        match="'itself': model 'nobody/nothing' could not be loaded: "
        ".*; .*evaluation.llm_judges.itself.model",
    ):
        local("nobody/nothing")
    with pytest.raises(ValueError, match='no token "B"'):
        local(tiny_judge(tmp_path / "deaf", letters=("A",)))
    for part in tiny_t5:
        part.save_pretrained(tmp_path / "t5")
    with pytest.raises(ValueError, match="encoder-decoder"):
        local(str(tmp_path / "t5"))
