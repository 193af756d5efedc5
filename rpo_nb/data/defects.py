"""What can be wrong with feedback, what is done about it, and the report that says so row by row.

`DEFECTS` is the whole policy in one table. "dropped": set aside, the rest of the row goes on.
"repaired": read in the one way it can be meant. "kept": sound, but worth knowing. A reason never
quotes the value, so that reports can be counted by reason.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pandas as pd

from rpo_nb.store import atomic_write

COLUMNS = ["line", "field", "reason", "remedy", "action"]

DEFECTS = {  # reason: (action, remedy)
    # the file and its lines
    "byte-order mark": ("repaired", "none needed; it was left out (save as UTF-8 without BOM)"),
    "line ends in CR LF": (
        "repaired",
        "none needed; the carriage return was left out (only the first such line is listed)",
    ),
    "file is damaged from here on": (
        "dropped",
        "fetch the file again; everything after this line is lost",
    ),
    "line is blank": ("dropped", "remove the line"),
    "line is not JSON": ("dropped", "write one complete JSON object on each line"),
    "CSV row is malformed": (
        "dropped",
        "quote fields that hold commas or line ends, and close every quote",
    ),
    "several objects on one line": (
        "repaired",
        "none needed; each was read as a row (end every object with a newline)",
    ),
    "array of objects on one line": (
        "repaired",
        "none needed; each was read as a row (write one object on each line)",
    ),
    "line is longer than 64 MB": (
        "dropped",
        "write one row on each line (a JSON array: name the file .json)",
    ),
    "header stands again": (
        "dropped",
        "none needed; the line repeats the header (of files joined end to end)",
    ),
    "file is not UTF-8": (
        "repaired",
        "none needed; it was read as cp1252, Western Europe (save as UTF-8)",
    ),
    "decimal commas": ("repaired", "none needed; 8,5 was read as 8.5 (only the first is listed)"),
    "points of thousands": (
        "repaired",
        "none needed; 1.000 was read as 1000, as the column has decimal commas (only the first is "
        "listed)",
    ),
    "delimiter is no comma": ("kept", "none needed; the header tells which it is"),
    "quotes are escaped by backslashes": ("kept", "none needed; read so (CSV doubles them)"),
    "space after the delimiter": ("repaired", "none needed; it was left out"),
    "raw control characters in JSON": (
        "repaired",
        "none needed; they were kept (JSON wants them escaped, as in \\u001f)",
    ),
    "key is given twice": ("kept", "keep one; the last value was used"),
    # the row
    "column looks like content and is not used": ("kept", "rename it, or leave it out"),
    "columns together make the prompt": (
        "kept",
        "leave out what a policy must not read, as a user's name",
    ),
    "column could be the reward too": ("kept", "name the one to take as data.reward"),
    "row is not an object": ("dropped", "write each row as an object with named fields"),
    "row has no known keys": (
        "dropped",
        "name the fields as UltraFeedback does, or prompt, completion, reward",
    ),
    "completions are missing": ("dropped", "give the row a list of completions"),
    "completions are not a list": ("dropped", "write the completions as a list of objects"),
    "completions are an empty list": ("dropped", "give the row at least one completion"),
    "completion is not an object": ("dropped", "write it as an object with its text and its score"),
    "lists of different length": ("dropped", "give as many scores as completions"),
    "winner is not understood": (
        "dropped",
        "name the better one by its letter, number, column, model or text, as A>B, or tie",
    ),
    "neither score nor winner": (
        "dropped",
        "give each text a score (score_a, score_b …), or the row a column winner",
    ),
    "pair has no scores": (
        "kept",
        "none needed; better and worse are 1 and 0: which is better is "
        "known, not by how much, nor how good a "
        "prompt's texts are beside another's",
    ),
    "scores go against the better one": (
        "kept",
        "check it; the scores were used (if less is better, give data.reward a weight below 0)",
    ),
    "pair is a tie": ("kept", "none needed; both have 0.5"),
    "the pair's conversations differ before the end": (
        "kept",
        "none needed; each answer has its own conversation as prompt",
    ),
    # texts, of prompts and completions
    "text is missing": ("dropped", "write the text, or remove the entry"),
    "text is not a string": ("dropped", "write the text as one string"),
    "text is empty": ("dropped", "write the text, or remove the entry"),
    "text is invisible": (
        "dropped",
        "write the text, or remove the entry; it has nothing but invisible characters",
    ),
    "text is not valid Unicode": (
        "repaired",
        "none needed; each lone surrogate or undecodable byte became U+FFFD",
    ),
    "text has control characters": (
        "kept",
        "remove invisible control, separator and direction characters if nobody meant them",
    ),
    "text is over-long": (
        "kept",
        "none needed; it is cut to the profile's max_prompt_tokens or max_completion_tokens",
    ),
    # conversations
    "conversation has no message": ("dropped", "give the prompt at least the user's message"),
    "message is not an object": (
        "dropped",
        "write each message as an object with role and content",
    ),
    "a tool's turn": (
        "dropped",
        "remove the tool's messages and calls; only system, user and assistant are read",
    ),
    "conversation in a string": (
        "repaired",
        "none needed; its messages were read (store them as a list)",
    ),
    "conversation in a string cannot be read": (
        "dropped",
        "write it as JSON, a list of {role, content}",
    ),
    "list of texts in a string": ("repaired", "none needed; its texts were read as turns"),
    "HH's text form": (
        "repaired",
        "none needed; Human and Assistant were read as turns (only the first is listed)",
    ),
    "text stands twice in the prompt": ("repaired", "none needed; it was read once"),
    "prompt is not the completion's conversation": (
        "kept",
        "none needed; the completion's own conversation was used",
    ),
    "role is unknown": ("dropped", "use system, user or assistant"),
    "content is a list of parts": (
        "dropped",
        "write the content as one string; images and other parts are not read",
    ),
    "an image, audio, video or tools beside the text": (
        "dropped",
        "remove the entry, or what stands beside its text, which is not read",
    ),
    "prompt is missing": (
        "dropped",
        "name its column prompt, or give whole conversations "
        "(messages, or Human: and Assistant: turns)",
    ),
    "conversation does not end with an answer": (
        "dropped",
        "end it with the assistant's message, which is the completion",
    ),
    "last message is not the user's": (
        "dropped",
        "end the prompt with the user's message; the answer to it is the completion",
    ),
    "roles do not alternate": (
        "kept",
        "join neighbouring messages of one role, system first; some chat templates refuse others",
    ),
    "completion is not one message of the assistant": (
        "dropped",
        "write it as one text, or as one message of role assistant",
    ),
    # scores
    "score is missing": ("dropped", "give the completion a number"),
    "several columns could be the reward": (
        "dropped",
        "choose with data.reward, one or a weighted sum",
    ),
    "more of it may not be better": (
        "dropped",
        "choose with data.reward, with a weight below 0 if less is better",
    ),
    "the one aspect is the reward": ("kept", "none needed; data.reward names another column"),
    "score is a boolean": ("dropped", "write a number; overall_score goes from 1 to 10"),
    "score is not a number": ("dropped", "write a number"),
    "score is not finite": ("dropped", "write a finite number"),
    "score is out of range": (
        "dropped",
        "correct it, or set data.reward_min and data.reward_max to your scale",
    ),
    "score is a number in quotes": (
        "repaired",
        "none needed; the number was used (write it without quotes)",
    ),
    "label is a word": ("repaired", "none needed; read as 1 or 0 (write true and false)"),
    "rank among scores": (
        "dropped",
        "give it a score as the others have, or leave every score out",
    ),
    "rewards are of several columns": (
        "kept",
        "none needed if they have one scale; else name one of them as data.reward",
    ),
    "rank was read as minus the rank": (
        "kept",
        "none needed; 1 is taken as the best (only the first is listed)",
    ),
    "rewards are labels": (
        "kept",
        "none needed; KTO takes them as they are, the others as rewards of two values",
    ),
    "weight is not a number of 0 and more": (
        "dropped",
        "write the row's weight as a finite number, 0 and more",
    ),
    "weight is missing": ("kept", "none needed; the row counts as 1"),
    "rater's own mean and spread were taken out": (
        "kept",
        "set data.level_raters=false to average the ratings as they are",
    ),
    "rater has too few ratings to be levelled": (
        "kept",
        "none needed; these ratings stay as they are",
    ),
    "overall_score 10 with ratings of 2 or less": (
        "repaired",
        "none needed; set to 1 (OpenBMB/UltraFeedback issue 8)",
    ),
    "overall_score 10 with ratings of 2 to 4": (
        "kept",
        "check it, or use the corrected release (OpenBMB/UltraFeedback issue 8)",
    ),
    "overall_score 10 without any rating": (
        "kept",
        "check it; no rating is left to judge it by (OpenBMB/UltraFeedback issue 8)",
    ),
    # the prompt, over all its rows
    "same completion, same score": ("dropped", "none needed; one copy was kept"),
    "same completion, several ratings": (
        "repaired",
        "none needed; the mean of its ratings is the reward (of weights its weight)",
    ),
    "prompt is another's twin": (
        "kept",
        "none needed; they differ in white space or invisible or "
        "composed characters alone and stay on one "
        "side of the split",
    ),
    "prompt is spread over rows": ("kept", "none needed; its rows were merged"),
    "prompt has one completion": ("kept", "add completions; with one there is nothing to compare"),
    "all rewards of the prompt are equal": (
        "kept",
        "none needed; the prompt carries no preference",
    ),
}


LISTED = 1000  # rows of a reason that the report lists; the others are counted
HARMLESS = {
    "line is blank",
    "header stands again",
    "file is damaged from here on",
    "same completion, same score",
}


class Report:
    """Collects report rows; with `strict` the first dropped entry is a ValueError instead.

    part: which file of a folder, or which split, is being read ("" where there is one only); it
    stands before the field.
    untyped: the source has texts alone (CSV), so that a number in quotes is no defect.
    """

    def __init__(self, name: str, *, strict: bool = False):
        self.name, self.strict, self.part, self.rows, self.untyped = name, strict, "", [], False
        # of (reason, action), also those not listed
        self.counts: Counter[tuple[str, str]] = Counter()
        self.first: dict[str, dict] = {}  # the first dropped row of each reason
        self.values: dict[str, str] = {}  # what stood there, where it is a text or a number
        self._parts: dict[str, int] = {}  # in the order of reading
        self._order: list[tuple[int, int]] = []  # of each row: its part's number and its line
        self._once: set = set()
        self._more: dict[tuple[str, str], int] = {}  # the first line that is only counted

    def add(
        self, line: int, field: str, reason: str, value: object = None, *, action: str = ""
    ) -> None:
        """Note one defect. line: 1-based line or row of the source; value: what stood there, shown
        by strict errors only.

        action: replaces the table's own. Raises ValueError with file, line, field and remedy if
        strict and dropped.
        """
        usual, remedy = DEFECTS[reason]
        kind = reason, action or usual
        self.counts[kind] += 1
        if self.counts[kind] > LISTED and not (self.strict and kind[1] == "dropped"):
            self._more.setdefault(kind, line)
            return
        field = ": ".join(filter(None, (self.part, field)))
        row = {"line": line, "field": field, "reason": reason, "remedy": remedy, "action": kind[1]}
        if self.strict and row["action"] == "dropped":
            where = f"{self.name}, line {line}" + (f", {field}" if field else "")
            raise ValueError(f"{where}: {reason} ({ascii(value)[:60]}); {remedy}")
        if row["action"] == "dropped":
            if reason not in self.first and isinstance(value, (str, int, float)):
                self.values[reason] = f" ({ascii(value)[:40]})"
            self.first.setdefault(reason, row)
        self.rows.append(row)
        self._order.append((self._parts.setdefault(self.part, len(self._parts)), line))

    def once(self, line: int, field: str, reason: str) -> None:
        """Note what is the same for all rows, with the first of them only."""
        if (field, reason) not in self._once:
            self._once.add((field, reason))
            self.add(line, field, reason)

    @property
    def dropped(self) -> int:
        """Entries that are lost (copies, blank lines and the like are no loss)."""
        return sum(
            n
            for (reason, action), n in self.counts.items()
            if action == "dropped" and reason not in HARMLESS
        )

    def sorted(self) -> list[dict]:
        """The rows by part and line, in the order of discovery within a line; at the end one row
        for all that are only counted of a reason (`more`: how many)."""
        listed = [self.rows[i] for i in sorted(range(len(self.rows)), key=self._order.__getitem__)]
        for (reason, action), line in self._more.items():
            more = self.counts[reason, action] - LISTED
            listed.append(
                {
                    "line": line,
                    "field": f"and {more:,} more",
                    "reason": reason,
                    "remedy": DEFECTS[reason][1],
                    "action": action,
                    "more": more,
                }
            )
        return listed


def summarise_report(report: list[dict]) -> pd.DataFrame:
    """How often each reason occurs: columns action, reason, count, first_line, fields (the first
    three); the gravest and the most frequent first."""
    frame = pd.DataFrame(report, columns=COLUMNS).assign(
        count=[row.get("more", 1) for row in report]
    )
    frame["field"] = ["" if "more" in row else row["field"] for row in report]
    counts = frame.groupby(["action", "reason"], as_index=False).agg(
        count=("count", "sum"), first_line=("line", "min"), fields=("field", _first_fields)
    )
    grave = counts["action"].map({"dropped": 0, "repaired": 1, "kept": 2})
    return (
        counts.assign(grave=grave)
        .sort_values(["grave", "count", "reason"], ascending=[True, False, True], ignore_index=True)
        .drop(columns="grave")
    )


def _first_fields(fields: pd.Series) -> str:
    found = list(filter(None, fields.unique()))
    return ", ".join(found[:3]) + (", …" if len(found) > 3 else "")


def write_report(report: list[dict], path: str | Path) -> None:
    """Write the report as CSV (UTF-8, a header, one defect a row), also when it is empty."""
    write_table(pd.DataFrame(report, columns=COLUMNS), path)


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table as CSV with "\\n" line ends: to a temporary name first, so that a killed run
    leaves no half file."""
    atomic_write(path, table.to_csv(index=False, lineterminator="\n"))
