"""Prompt files by their published forms, and generations in the formats of others."""

from __future__ import annotations

import hashlib
import json

import pytest

from rpo_nb.config.schema import DecodingConfig
from rpo_nb.evaluation.exports import export
from rpo_nb.evaluation.prompt_sets import read_prompts

ALPACA = {"dataset": "koala", "instruction": "Say hello.", "output": "Hi", "generator": "davinci"}
IFEVAL = {
    "key": 1000,
    "prompt": "Say hello twice.",
    "instruction_id_list": ["keywords:frequency"],
    "kwargs": [{"keyword": "hello", "frequency": 2, "relation": "at least"}],
}
BENCH = {"question_id": 81, "category": "writing", "turns": ["Write a poem.", "Make it shorter."]}
DECODING = DecodingConfig(max_new_tokens=16)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_kind_is_told_by_the_keys(tmp_path):
    array = tmp_path / "alpaca_eval.json"
    array.write_text(json.dumps([ALPACA]), encoding="utf-8")
    for path, kind, turns in (
        (array, "alpaca_eval", ["Say hello."]),
        (write(tmp_path / "input_data.jsonl", [IFEVAL]), "ifeval", ["Say hello twice."]),
        (write(tmp_path / "question.jsonl", [BENCH]), "mt_bench", BENCH["turns"]),
        (write(tmp_path / "mine.jsonl", [{"prompt": "Hello?"}]), "prompts", ["Hello?"]),
    ):
        found = read_prompts(path)
        assert (found.name, found.kind, found.turns) == (path.stem, kind, [turns])
    lines = tmp_path / "my prompts.txt"
    lines.write_text("One.\n\nTwo.\n", encoding="utf-8")
    assert read_prompts(lines).turns == [["One."], ["Two."]]
    assert read_prompts(lines).name == "my_prompts"


def test_what_stands_after_an_instruction_is_asked_too(tmp_path):
    rows = [ALPACA | {"instruction": "In a word.", "input": text} for text in ("Who?", "", None)]
    asked = read_prompts(write(tmp_path / "a.jsonl", rows)).turns
    assert asked == [["In a word.\n\nWho?"], ["In a word."], ["In a word."]]


def test_two_versions_of_a_file_are_two_sets(tmp_path):
    names = [
        read_prompts(write(tmp_path / name, [{"prompt": "Hello?"}])).name
        for name in ("eval.v1.jsonl", "eval.v2.jsonl", "eval.v2.json", "plain.jsonl")
    ]
    assert names == ["eval_v1", "eval_v2", "eval_v2", "plain"]


def test_files_of_other_prompts_do_not_stay_beside(tmp_path):
    """A file of the same name that says something else."""
    for prompt, policies in (("Hello?", ("rpo", "sft")), ("Bye?", ("rpo",)), ("Bye?", ("dro",))):
        prompts = read_prompts(write(tmp_path / "a.jsonl", [{"prompt": prompt}]))
        for policy in policies:
            export(tmp_path / "a", prompts, [["Hi."]], policy, DECODING)
    found = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("a/alpaca_eval/*")}
    assert {name: rows[0]["instruction"] for name, rows in found.items()} == {
        "rpo": "Bye?",
        "dro": "Bye?",
    }


def test_the_key_is_of_what_is_asked(tmp_path):
    one = read_prompts(write(tmp_path / "a.jsonl", [{"prompt": "Hello?"}]))
    assert read_prompts(write(tmp_path / "a.jsonl", [{"prompt": "Hello!"}])).key != one.key
    assert one.key.startswith("a-")


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([ALPACA, {"prompt": "x"}], "row 2: it has no 'instruction'"),
        ([BENCH, BENCH | {"turns": []}], "row 2: turns must be"),
        ([BENCH | {"turns": ["a", ""]}], "row 1: 'turns' is ''"),
        ([{"prompt": " "}], "row 1: 'prompt' is ' '"),
        ([{"prompt": "Hello?", "system": "Be brief."}], "row 1: it has a 'system', which would"),
        ([BENCH | {"system_prompt": "Be brief."}], "row 1: it has a 'system_prompt', which would"),
        ([ALPACA | {"input": 7}], "row 1: 'input' is 7"),
    ],
)
def test_a_row_of_another_form_is_named(tmp_path, rows, told):
    with pytest.raises(ValueError, match="rows.jsonl, row") as error:
        read_prompts(write(tmp_path / "rows.jsonl", rows))
    assert told in str(error.value)


def test_a_byte_order_mark_is_no_part_of_a_prompt(tmp_path):
    for name, text in (("a.txt", "Hello?\nBye?\n"), ("a.jsonl", '{"prompt": "Hello?"}\n')):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8-sig")
        assert read_prompts(path).turns[0] == ["Hello?"]


@pytest.mark.parametrize(
    ("name", "data", "place"),
    [
        ("a.txt", b"Hello?\r\n\r\ncaf\xe9?\nBye?\n", "a.txt, line 3: "),
        ("a.txt", b"\xef\xbb\xbfHello?\n\xe9?\n", "a.txt, line 2: "),
        ("a.txt", "Hello?".encode("utf-16"), "a.txt, line 1: "),
        ("a.jsonl", b'{"prompt": "Hello?"}\n{"prompt": "caf\xe9?"}\n', "a.jsonl, row 2: "),
        ("a.json", b'[{"prompt": "Hello?", "from": "caf\xe9"}]', "a.json, row 1: "),
    ],
)
def test_bytes_that_are_not_utf8_are_named_by_their_place(tmp_path, name, data, place):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError) as error:
        read_prompts(tmp_path / name)
    told = str(error.value)
    assert told.startswith(place) and told.endswith("save the file as UTF-8")


def test_alpaca_evals_outputs_are_its_four_fields(tmp_path):
    prompts = read_prompts(write(tmp_path / "alpaca_eval.jsonl", [ALPACA, ALPACA]))
    paths = export(tmp_path / "x", prompts, [["Hi."], ["Hello."]], "rpo", DECODING)
    assert [path.relative_to(tmp_path / "x").parts[:2] for path in paths] == [
        ("alpaca_eval", "rpo.json"),
        ("lm_eval", "rpo"),
    ]
    assert json.loads(paths[0].read_text(encoding="utf-8")) == [
        {"instruction": "Say hello.", "output": text, "generator": "rpo", "dataset": "koala"}
        for text in ("Hi.", "Hello.")
    ]


def test_the_harness_samples_have_its_fields_hashes_and_name(tmp_path):
    prompts = read_prompts(write(tmp_path / "input_data.jsonl", [IFEVAL]))
    path = export(tmp_path / "x", prompts, [["hello hello"]], "rpo", DECODING)[1]
    assert path.name.startswith("samples_ifeval_2000-01-01T")
    (row,) = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert row["doc"] == IFEVAL and row["doc_id"] == 0 and row["filter"] == "none"
    assert row["resps"] == [["hello hello"]] and row["filtered_resps"] == ["hello hello"]
    given = row["arguments"]["gen_args_0"]
    assert given["arg_0"] == IFEVAL["prompt"] and given["arg_1"]["max_gen_toks"] == 16
    assert row["target"] == 0 and row["target_hash"] == hashlib.sha256(b"0").hexdigest()
    assert row["prompt_hash"] == hashlib.sha256(IFEVAL["prompt"].encode()).hexdigest()
    assert (
        row["doc_hash"]
        == hashlib.sha256(json.dumps(IFEVAL, indent=2, ensure_ascii=False).encode()).hexdigest()
    )


def test_a_conversation_is_exported_whole(tmp_path):
    prompts = read_prompts(write(tmp_path / "question.jsonl", [BENCH]))
    paths = export(tmp_path / "x", prompts, [["Roses.", "Rose."]], "rpo", DECODING)
    (answer,) = [json.loads(line) for line in paths[2].read_text(encoding="utf-8").splitlines()]
    assert answer["question_id"] == 81 and answer["model_id"] == "rpo"
    assert answer["choices"] == [{"index": 0, "turns": ["Roses.", "Rose."]}]
    (output,) = json.loads(paths[0].read_text(encoding="utf-8"))
    assert output["output"] == "Rose."
    places = [output["instruction"].index(t) for t in ("a poem", "Roses.", "it shorter")]
    assert places == sorted(places)
    again = export(tmp_path / "y", prompts, [["Roses.", "Rose."]], "rpo", DECODING)
    assert [p.read_bytes() for p in again] == [p.read_bytes() for p in paths]
