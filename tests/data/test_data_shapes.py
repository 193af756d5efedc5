"""Shapes, raters, weights, aspects, what may be lost, and files however they are packed or
broken."""

import bz2
import gzip
import json
import lzma
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rpo_nb.config.schema import DataConfig
from rpo_nb.data import defects, forms, kinds, reading, shapes
from rpo_nb.data import files as data_files
from rpo_nb.data.feedback import conversations, load_feedback
from rpo_nb.data.raters import ratings, strictness
from rpo_nb.data.splits import split_feedback, standardise
from rpo_nb.data.summary import aspect_table, summarise

ROOT = Path(__file__).resolve().parents[2]
SHARED = next(
    (
        folder / "shared" / "data"
        for folder in Path(__file__).resolve().parents[3:5]
        if (folder / "shared" / "data").is_dir()
    ),
    Path("nowhere"),
)
Q, GOOD, BAD = "Name a colour.", "Red.", "Bl"


def load(source, **config):
    return load_feedback(source, config=DataConfig(**config), return_report=True)


def rewards(feedback):
    return dict(zip(feedback["completion"], feedback["reward"], strict=True))


def told(report, action="dropped"):
    return Counter(row["reason"] for row in report if row["action"] == action)


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


# ---- README --------------------------------------------------------------------------------------


def readme():
    """{title: the rows of the snippet after it} of "Your own feedback"."""
    part = (
        (ROOT / "README.md")
        .read_text(encoding="utf-8")
        .split("## Your own feedback")[1]
        .split("python -m")[0]
    )
    return {
        title: [json.loads(line) for line in snippet.strip().splitlines()]
        for title, snippet in re.findall(r"\*\*(\w+)\*\*.*?```\n(.*?)```", part, re.DOTALL)
    }


@pytest.mark.parametrize(
    "title, expected",
    {
        "Scores": [7.5, 3, 7.5, 2, 8],
        "Labels": [1, 0, 1, 0],
        "Pairs": [1, 0] * 4,
        "Ratings": [4, 3, 4, 0],
        "Raters": [7.5, 2.5],
    }.items(),
)
def test_the_readmes_snippets(title, expected, tmp_path):
    rows = readme()[title]
    assert len(rows) == 4
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = {"reward": "helpfulness"} if title == "Ratings" else {}
    if title == "Raters":  # weighted: Bl has 4 at half weight and 1
        expected = [7.5, 2.0]
    feedback, report = load(tmp_path / "mine.jsonl", **config)
    assert feedback["reward"][:] == expected and not told(report)


# ---- shapes that are no file of tests/cases ------------------------------------------------------

PAIR = [
    (
        "lmsys",
        {
            "conversation_a": [user(Q), assistant(GOOD)],
            "conversation_b": [user(Q), assistant(BAD)],
            "winner": "model_a",
        },
    ),
    (
        "helpsteer3",
        {"context": [user(Q)], "response1": GOOD, "response2": BAD, "overall_preference": -2},
    ),
    ("pku", {"prompt": Q, "response_0": BAD, "response_1": GOOD, "better_response_id": 1}),
    (
        "a model's name",
        {
            "prompt": Q,
            "model_a": "x",
            "model_b": "y",
            "response_a": GOOD,
            "response_b": BAD,
            "winner": "x",
        },
    ),
    (
        "ShareGPT",
        {
            "conversations": [{"from": "human", "value": Q}],
            "chosen": {"from": "gpt", "value": GOOD},
            "rejected": {"from": "gpt", "value": BAD},
        },
    ),
    ("capitals", {"Prompt": Q, "Chosen Response": GOOD, "Rejected-Response": BAD}),
    ("camel case", {"userPrompt": Q, "chosenResponse": GOOD, "rejectedResponse": BAD}),
    ("both orders", {"prompt": Q, "response_rejected": BAD, "response_chosen": GOOD}),
    ("TRL", {"prompt": [user(Q)], "chosen": [assistant(GOOD)], "rejected": [assistant(BAD)]}),
    (
        "no prompt column",
        {"chosen": [user(Q), assistant(GOOD)], "rejected": [user(Q), assistant(BAD)]},
    ),
]


@pytest.mark.parametrize("row", [row for _, row in PAIR], ids=[name for name, _ in PAIR])
def test_a_pair_in_every_dress(row):
    feedback, report = load([row])
    assert set(feedback["prompt"]) == {Q} and rewards(feedback) == {GOOD: 1.0, BAD: 0.0}
    assert "pair has no scores" in told(report, "kept") and kinds.is_labelled(feedback["reward"])


def test_a_pairs_scores_are_kept_and_a_tie_is_half():
    scored = {
        "prompt": Q,
        "chosen": GOOD,
        "rejected": BAD,
        "chosen-rating": 4.5,
        "rejected_rating": 2,
    }
    assert rewards(load([scored])[0]) == {GOOD: 4.5, BAD: 2}
    tie, report = load(
        [{"prompt": Q, "response_a": GOOD, "response_b": BAD, "winner": "tie (bothbad)"}]
    )
    assert rewards(tie) == {GOOD: 0.5, BAD: 0.5} and "pair is a tie" in told(report, "kept")
    half = [scored | {"prompt": f"{i}"} for i in range(8)] + [scored | {"rejected_rating": None}]
    feedback, report = load(half)
    assert set(feedback["reward"]) == {4.5, 2.0} and told(report) == {"score is missing": 1}


def test_a_number_that_may_mean_either_side_is_refused():
    for winner in (0, "3", True, 1.00003):
        with pytest.raises(
            ValueError, match="winner is not understood.*its columns are .*output_1"
        ):
            load([{"prompt": Q, "output_1": GOOD, "output_2": BAD, "preference": winner}])


@pytest.mark.parametrize(
    "up, down",
    [
        (True, False),
        ("True", "False"),
        ("\U0001f44d\U0001f3fd", "\U0001f44e"),
        ("thumbs_up", "thumbs_down"),
        ("yes", "no"),
        (1, 0),
        ("1", "0"),
    ],
)
def test_labels_are_1_and_0(up, down):
    feedback, report = load(
        [
            {"prompt": Q, "completion": GOOD, "label": up},
            {"prompt": Q, "completion": BAD, "label": down},
        ]
    )
    assert rewards(feedback) == {GOOD: 1.0, BAD: 0.0}
    assert kinds.is_labelled(feedback["reward"]) and "rewards are labels" in told(report, "kept")


def test_a_word_among_scores_is_no_label():
    feedback, report = load(
        [
            {"prompt": Q, "completion": GOOD, "score": 7},
            {"prompt": Q, "completion": BAD, "score": "good"},
            {"prompt": Q, "completion": "C", "score": True},
            {"prompt": "Another.", "completion": "D", "score": 2},
        ]
    )
    assert rewards(feedback) == {GOOD: 7, "D": 2} and feedback["prompt_id"][:] == [0, 1]
    assert told(report) == {"score is not a number": 1, "score is a boolean": 1}


def test_context_belongs_to_the_prompt_and_what_is_not_used_is_named():
    rows = [
        {
            "context": "A text.",
            "question": "What?",
            "input": "x",
            "system": "",
            "answer": text,
            "score": score,
            "label": 1,
            "notes": "said by somebody in a hurry",
        }
        for text, score in ((GOOD, 5), (BAD, 2))
    ]
    feedback, report = load(rows)
    assert feedback["prompt"][0] == "A text.\n\nWhat?\n\nx"
    assert {(row["field"], row["reason"]) for row in report} == {
        ("label", "column could be the reward too"),
        ("notes", "column looks like content and is not used"),
    }
    turns, _ = load(
        [
            {
                "instruction": "Bye",
                "history": [["Hi", "Hello"]],
                "system": "S",
                "output": text,
                "score": score,
            }
            for text, score in ((GOOD, 5), (BAD, 2))
        ]
    )
    assert conversations(turns)[0] == [
        {"role": "system", "content": "S"},
        user("Hi"),
        assistant("Hello"),
        user("Bye"),
    ]


def test_a_null_does_not_win_over_a_value_also_in_a_frame():
    frame = pd.DataFrame(
        {
            "prompt": [Q, np.nan],
            "instruction": [np.nan, Q],
            "completion": [GOOD, None],
            "response": [None, BAD],
            "reward": [np.nan, 2.0],
            "score": [7.0, np.nan],
        }
    )
    for source in (frame, frame.to_dict("records")):
        assert rewards(load(source)[0]) == {GOOD: 7, BAD: 2}


# ---- several rewards, raters, weights ------------------------------------------------------------

ASPECTS = [
    {"prompt": Q, "response": GOOD, "helpfulness": 4, "verbosity": 1},
    {"prompt": Q, "response": BAD, "helpfulness": "1", "verbosity": None},
]


def test_one_of_several_rewards_or_their_weighted_sum():
    with pytest.raises(
        ValueError,
        match="several columns could be the reward.*helpfulness, "
        "verbosity.*data.reward=helpfulness",
    ):
        load(ASPECTS)
    feedback, _ = load(ASPECTS, reward="Helpfulness")
    assert rewards(feedback) == {GOOD: 4, BAD: 1} and kinds.aspects(feedback) == [
        "helpfulness",
        "verbosity",
    ]
    assert aspect_table(feedback)["completions"].tolist() == [2, 1]
    summed, report = load(ASPECTS, reward={"helpfulness": 0.65, "verbosity": -0.4})
    assert rewards(summed) == {GOOD: pytest.approx(2.2)} and told(report) == {"score is missing": 1}
    assert DataConfig(reward={"helpfulness:0.65": None, "verbosity:-0.4": None}).reward_parts() == {
        "helpfulness": 0.65,
        "verbosity": -0.4,
    }
    with pytest.raises(ValueError, match="data.reward names helpfulnes,"):
        load(ASPECTS, reward="helpfulnes")


def test_ultrafeedbacks_aspects():
    rows = [
        {
            "instruction": Q,
            "completions": [
                {
                    "response": text,
                    "overall_score": 5,
                    "annotations": {a: {"Rating": str(s)} for a in ("helpfulness", "honesty")},
                }
                for text, s in ((GOOD, 5), (BAD, 2))
            ],
        }
    ]
    assert (
        rewards(load(rows)[0]) == {GOOD: 5, BAD: 5} and load(rows)[0].features == reading.FEATURES
    )
    feedback, _ = load(rows, reward="honesty")
    assert rewards(feedback) == {GOOD: 5, BAD: 2} and kinds.aspects(feedback) == [
        "helpfulness",
        "honesty",
    ]


def rated(strict=2.0, n=30):
    """Two raters of the same n texts, the second `strict` lower, and each one more text of the same
    worth."""
    worth = np.random.default_rng(0).normal(0, 1, n)
    rows = [
        {"prompt": Q, "completion": f"c{i}", "score": float(w - shift), "rater": rater}
        for i, w in enumerate(worth)
        for rater, shift in (("Ann", 0.0), ("Bob", strict))
    ]
    return [
        *rows,
        {"prompt": Q, "completion": "by Ann", "score": 0.0, "rater": "Ann"},
        {"prompt": Q, "completion": "by Bob", "score": -strict, "rater": "Bob"},
    ]


def test_strictness_is_taken_out_and_no_rating_is_lost():
    feedback, report = load(rated())
    assert rewards(feedback)["by Ann"] == pytest.approx(rewards(feedback)["by Bob"], abs=1e-9)
    assert told(report, "kept")["rater's own mean and spread were taken out"] == 2 and not told(
        report
    )
    assert len(ratings(feedback)) == 62 and feedback["rater"][0] == "Ann; Bob"
    plain, _ = load(rated(), level_raters=False)
    assert rewards(plain)["by Ann"] - rewards(plain)["by Bob"] == pytest.approx(2.0)
    table = strictness(feedback).set_index("rater")
    assert table.loc["Bob", "difference"] == pytest.approx(-2) and table.loc[
        "Ann", "agreement"
    ] == pytest.approx(1)


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")
def test_four_raters_of_translations_lose_no_rating():
    feedback, report = load(SHARED / "mqm_ted_ende.jsonl.gz")
    given = ratings(feedback)
    assert len(given) == 7406 and not told(report)
    assert given["rating"].sum() == pytest.approx(
        sum(json.loads(line)["reward"] for line in gzip.open(SHARED / "mqm_ted_ende.jsonl.gz"))
    )
    assert strictness(feedback)["mean"].is_monotonic_decreasing  # rater4 is the strictest


def test_weights_enter_the_standardisation():
    rows = [
        {"prompt": f"p{i}", "completion": f"{i}{j}", "reward": i % 5 + 4 * j, "weight": 1 + 2 * j}
        for i in range(30)
        for j in range(2)
    ]
    feedback, _ = load(rows)
    splits = split_feedback(feedback, config=DataConfig(validation=5), seed=0)
    scores, weights = np.array(splits.train["reward"]), np.array(splits.train["weight"])
    assert (
        splits.reward_mean
        == pytest.approx(np.average(scores, weights=weights))
        != pytest.approx(scores.mean())
    )
    assert (standardise(scores, splits) ** 2 * weights).sum() / weights.sum() == pytest.approx(1)
    assert any("weights, 1 to 3" in note for note in kinds.kind_notes(feedback, []))
    for bad in (-1, "heavy", float("inf")):
        assert told(load([*rows, rows[0] | {"completion": "x", "weight": bad}])[1]) == {
            "weight is not a number of 0 and more": 1
        }


# ---- how much may be lost ------------------------------------------------------------------------


def test_the_run_stops_where_a_twentieth_would_be_lost():
    rows = [
        {"prompt": f"p{i}", "completion": f"c{j}", "reward": j} for i in range(50) for j in range(2)
    ]
    broken = [row | {"reward": "?"} if i < 6 else row for i, row in enumerate(rows)]
    with pytest.raises(
        ValueError,
        match="6 of 100 entries.*line 1, reward: score is not a number.*data.max_dropped=0.06",
    ):
        load(broken)
    assert len(load(broken, max_dropped=0.06)[0]) == 94 and len(load(broken[1:])[0]) == 94
    assert (
        min(load([row | {"reward": row["reward"] * 100 - 50} for row in rows])[0]["reward"]) == -50
    )
    with pytest.raises(ValueError, match="one class of labels.*data.max_dropped=1"):
        load(rows, reward_min=1)
    assert len(load(rows, reward_min=1, max_dropped=1)[0]) == 50


def test_of_a_reason_the_first_thousand_are_listed_and_all_are_counted(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(
        "\n" * 2500
        + "\n".join(
            json.dumps({"prompt": Q, "completion": c, "reward": r})
            for c, r in ((GOOD, 3), (BAD, 1))
        )
    )
    _, report = load(path)
    assert len(report) == defects.LISTED + 1 and "and 1,500 more" in report[-1]["field"]
    summary = defects.summarise_report(report)
    assert summary["count"].tolist() == [2500] and summary["fields"].tolist() == [""]


def test_a_line_longer_than_the_limit_costs_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(data_files, "LIMIT", 500)
    rows = [
        {"prompt": Q, "completion": c, "reward": r}
        for c, r in ((GOOD, 3), ("x" * 5000, 2), (BAD, 1))
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    feedback, report = load(tmp_path / "x.jsonl")
    assert rewards(feedback) == {GOOD: 3, BAD: 1} and [
        (r["line"], r["reason"]) for r in report
    ] == [(2, "line is longer than 64 MB")]


# ---- files ---------------------------------------------------------------------------------------

ROWS = [
    {"prompt": Q, "completion": GOOD, "reward": 7.5},
    {"prompt": Q, "completion": 'Blue, perhaps; "or"\nnot.', "reward": 2.0},
]


@pytest.mark.parametrize("name", ["x.jsonl", "x.ndjson", "x.json", "x.csv", "x.tsv"])
@pytest.mark.parametrize(
    "pack",
    [lambda raw: raw, gzip.compress, bz2.compress, lzma.compress],
    ids=["plain", "gzip", "bzip2", "xz"],
)
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_every_format_packed_by_its_bytes(name, pack, ending, tmp_path):
    frame = pd.DataFrame(ROWS)
    text = {
        "x.json": json.dumps(ROWS, indent=1),
        "x.csv": frame.to_csv(index=False),
        "x.tsv": frame.to_csv(index=False, sep="\t"),
    }.get(name, "\n".join(map(json.dumps, ROWS)))
    (tmp_path / (name + ending)).write_bytes(pack(text.encode()))
    feedback, report = load(tmp_path / (name + ending))
    assert rewards(feedback) == {row["completion"]: row["reward"] for row in ROWS} and report == []


@pytest.mark.parametrize("mark", [";", "|", "\t", "^"])
def test_any_delimiter_and_decimal_commas(mark, tmp_path):
    text = pd.DataFrame(ROWS).to_csv(index=False, sep=mark, decimal=",")
    (tmp_path / "x.csv").write_text(text)
    feedback, report = load(tmp_path / "x.csv")
    assert rewards(feedback) == {
        row["completion"]: row["reward"] for row in ROWS
    } and "decimal commas" in told(report, "repaired")


def test_a_broken_quote_makes_no_row_of_pieces(tmp_path):
    text = 'prompt,completion,reward\np1,a,1\np2,"first ""line"" "broken" here,\nx,y,5\nlast",7\np3,c,3\np4,"never closed,4\np5,"e, f",5\n'
    (tmp_path / "x.csv").write_text(text)
    feedback, report = load(tmp_path / "x.csv")
    assert rewards(feedback) == {"a": 1, "c": 3, "e, f": 5}
    assert [row["line"] for row in report if row["action"] == "dropped"] == [3, 4, 5, 7]


@pytest.mark.parametrize(
    "raw, words",
    [
        (b"PK\x03\x04....", "Excel"),
        (b"PAR1....", "Parquet"),
        (b"SQLite format 3\x00", "SQLite"),
        ("prompt,completion".encode("utf-16-le") * 3, "UTF-16"),
    ],
)
def test_a_file_that_is_no_text_is_called_what_it_is(raw, words, tmp_path):
    for name in ("x.jsonl", "x.csv", "x.xlsx"):
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(ValueError, match=words):
            load(tmp_path / name)


@pytest.mark.parametrize(
    "name, raw, words",
    [
        ("x.jsonl", b"prompt,completion,reward\na,b,1\n", "is CSV"),
        ("x.csv", b'{"prompt": "a"}\n', "is JSON"),
        ("x.jsonl.gz", b"\x1f\x8b\x08\x00bad", "damaged from its first byte"),
    ],
)
def test_a_file_of_another_kind_than_its_name_says_so(name, raw, words, tmp_path):
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(ValueError, match=words):
        load(tmp_path / name)


def test_a_json_file_cut_off_keeps_what_came_before_and_a_broken_one_says_where(tmp_path):
    text = json.dumps([ROWS[0], ROWS[1], ROWS[0]])
    (tmp_path / "x.json").write_text(text[:-10])
    feedback, report = load(tmp_path / "x.json")
    assert len(feedback) == 2 and [(r["line"], r["reason"]) for r in report] == [
        (3, "file is damaged from here on")
    ]
    (tmp_path / "x.json").write_text(text.replace("}, {", "} {", 1))
    with pytest.raises(ValueError, match="after 1 rows it is not JSON.*delimiter"):
        load(tmp_path / "x.json")


def test_folders_whose_files_names_tell_splits_or_do_not(tmp_path):
    def folder(name, *files):
        for i, file in enumerate(files):
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text(
                "\n".join(json.dumps(row | {"prompt": f"{file}{i}"}) for row in ROWS)
            )
        return tmp_path / name

    assert len(load(folder("a", "my_train.jsonl", "my_test.jsonl"))[0]) == 2
    assert len(load(folder("b", "train_jan.jsonl", "feb.jsonl"))[0]) == 4
    assert len(load(folder("c", "train/x.jsonl", "test/x.jsonl"))[0]) == 2
    with pytest.raises(ValueError, match="several folders \\(x, y\\)"):
        load(folder("d", "x/1.jsonl", "y/1.jsonl"))
    with pytest.raises(ValueError, match="train.jsonl is named like a split and more.jsonl is not"):
        load(folder("e", "train.jsonl", "more.jsonl"))


def test_twins_stand_on_one_side_and_are_told():
    twins = ["caf\u00e9", "cafe\u0301", "caf\u00e9\u200b", " caf\u00e9 "]
    rows = [
        {"prompt": p, "completion": c, "reward": r}
        for p in [*twins, "a", "b", "c"]
        for c, r in ((GOOD, 9), (BAD, 2))
    ]
    feedback, report = load(rows)
    assert (
        len(set(feedback["prompt_id"])) == 7
        and told(report, "kept")["prompt is another's twin"] == 3
    )
    for seed in range(5):
        splits = split_feedback(feedback, config=DataConfig(validation=1, held_out=1), seed=seed)
        assert (
            sum(
                bool(set(twins) & set(part["prompt"]))
                for part in (splits.train, splits.validation, splits.held_out)
            )
            == 1
        )


# ---- the table of shapes, merged weights, what a reader reads ------------------------------------


def test_a_new_shape_is_a_reader_and_a_line_of_the_table(monkeypatch):
    def read_triple(row):
        field, texts = row.first(row.columns.keys(("triple",)))
        for i, text in enumerate(texts):
            yield forms.Entry(
                row.prompt,
                (f"{field}[{i}]", text),
                (f"{field}[{i}]", 3 - i),
                forms.NOTHING,
                row.values,
                row.columns,
            )

    def keys(columns):
        return columns.keys(("triple",))

    triple = shapes.Shape(
        "three, the best first",
        keys,
        lambda row: forms.has(row.values, keys(row.columns)),
        read_triple,
    )
    monkeypatch.setattr(shapes, "SHAPES", (triple, *shapes.SHAPES))
    feedback, report = load([{"prompt": Q, "triple": [GOOD, BAD, "C"]}])
    assert rewards(feedback) == {GOOD: 3, BAD: 2, "C": 1}
    assert {row["reason"] for row in report} <= {"text is over-long"}
    old = [{"prompt": Q, "completion": text, "reward": r} for text, r in ((GOOD, 3), (BAD, 1))]
    assert rewards(load(old)[0]) == {GOOD: 3, BAD: 1}
    with pytest.raises(ValueError, match="completions are missing"):  # a prompt alone
        load([{"prompt": Q}])
    with pytest.raises(ValueError, match="prompt: text is missing"):
        load([{"score": 3}])


@pytest.mark.parametrize("raters", [True, False])
def test_weights_of_one_are_as_no_weights_also_of_merged_ratings(raters):
    rows = [
        {"prompt": f"p{i % 8}", "completion": f"c{i % 4}", "reward": i % 7, "rater": f"r{i % 3}"}
        for i in range(60)
    ]
    rows = rows if raters else [{k: v for k, v in row.items() if k != "rater"} for row in rows]
    plain, _ = load(rows)
    weighted, _ = load([row | {"weight": 1} for row in rows])
    assert len(plain) < 60 and set(weighted["weight"]) == {1.0}
    assert weighted["reward"][:] == plain["reward"][:]


@pytest.mark.parametrize(("scores", "reward"), [((4, 1), 2.5), ((2, 2), 2)])
def test_a_merged_completion_has_the_mean_of_its_weights(scores, reward):
    rows = [
        {"prompt": Q, "completion": GOOD, "score": score, "weight": weight}
        for score, weight in zip(scores, (3, 3), strict=True)
    ]
    rows[1]["weight"] = 1 if scores == (2, 2) else 3
    feedback, _ = load([*rows, {"prompt": Q, "completion": BAD, "score": 0, "weight": 1}])
    assert rewards(feedback) == {GOOD: reward, BAD: 0}
    assert feedback["weight"][:] == [2.0 if scores == (2, 2) else 3.0, 1.0]


def test_the_reports_summary_names_the_columns():
    rows = [
        {
            "prompt": Q,
            "completion": text,
            "reward": r,
            "score": 1,
            "notes": "a text of more words than four",
            "remarks": "another text of more words than four",
        }
        for text, r in ((GOOD, 3), (BAD, 1))
    ]
    table = defects.summarise_report(load(rows)[1]).set_index("reason")["fields"]
    assert table["column looks like content and is not used"] == "notes, remarks"
    assert table["column could be the reward too"] == "score"


def test_a_missing_name_is_no_model_and_words_are_counted_without_lists():
    rows = [
        {"prompt": Q, "completion": "a\u3000b  c\n", "reward": 3},
        {"prompt": Q, "completion": BAD, "reward": 1, "model": "m"},
    ]
    summary = summarise(load(rows)[0]).set_index("quantity")["value"]
    assert summary["models"] == 1 and summary["words per completion, median"] == 2
    assert summarise(load(ROWS)[0]).set_index("quantity")["value"]["models"] == 0
