"""What is known of version 4 of paper A stands in the package, marked."""

from rpo_nb.reporting.published import published_numbers, version4_note


def test_its_four_numbers_are_marked_as_an_aggregators_of_nobody_knows_what():
    numbers = published_numbers()["paper_a_v4"]["numbers"]
    assert {row["benchmark"]: row["value"] for row in numbers} == {
        "AlpacaEval": "79.5",
        "IFEval": "81.2",
        "MT-Bench": "77.1",
        "UltraFeedback validation": "88.1",
    }
    assert {row["source"] for row in numbers} == {"aggregator page"}
    assert {row[name] for row in numbers for name in ("model", "judge", "baseline")} == {"null"}


def test_the_note_tells_that_it_exists_and_that_its_tables_were_not_to_be_had():
    known, note = published_numbers()["paper_a_v4"], version4_note()
    assert known["date"] == "2026-06-01" and known["name"] == "Reward Partition Optimization"
    for told in (known["date"], known["name"], "not to be had", "79.5", "one A100 of 80 GB"):
        assert told in note
    assert known["authors_readme"]["data_linked"] == "HuggingFaceH4/ultrafeedback_binarized"
