"""What can be wrong with feedback, what is done about it, and the report that says so row by row.

`DEFECTS` is the whole policy in one table. "dropped": set aside, the rest of the row goes on. "repaired": read in the one way
it can be meant. "kept": sound, but worth knowing. A reason never quotes the value, so that reports can be counted by reason.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from rpo_nb.store import atomic_write

COLUMNS = ["line", "field", "reason", "remedy", "action"]

DEFECTS = {  # reason: (action, remedy)
    # the file and its lines
    "byte-order mark": ("repaired", "none needed; it was left out (save as UTF-8 without BOM)"),
    "line ends in CR LF": ("repaired", "none needed; the carriage return was left out (only the first such line is listed)"),
    "file is damaged from here on": ("dropped", "fetch the file again; everything after this line is lost"),
    "line is blank": ("dropped", "remove the line"),
    "line is not JSON": ("dropped", "write one complete JSON object on each line"),
    "CSV row is malformed": ("dropped", "quote fields that hold commas or line ends, and close every quote"),
    "several objects on one line": ("repaired", "none needed; each was read as a row (end every object with a newline)"),
    "array of objects on one line": ("repaired", "none needed; each was read as a row (write one object on each line)"),
    "raw control characters in JSON": ("repaired", "none needed; they were kept (JSON wants them escaped, as in \\u001f)"),
    "key is given twice": ("kept", "keep one; the last value was used"),
    # the row
    "row is not an object": ("dropped", "write each row as an object with named fields"),
    "row has no known keys": ("dropped", "name the fields as UltraFeedback does, or prompt, completion, reward"),
    "completions are missing": ("dropped", "give the row a list of completions"),
    "completions are not a list": ("dropped", "write the completions as a list of objects"),
    "completions are an empty list": ("dropped", "give the row at least one completion"),
    "completion is not an object": ("dropped", "write it as an object with its text and its score"),
    # texts, of prompts and completions
    "text is missing": ("dropped", "write the text, or remove the entry"),
    "text is not a string": ("dropped", "write the text as one string"),
    "text is empty": ("dropped", "write the text, or remove the entry"),
    "text is not valid Unicode": ("repaired", "none needed; each lone surrogate or undecodable byte became U+FFFD"),
    "text has control characters": ("kept", "remove invisible control, separator and direction characters if nobody meant them"),
    "text is over-long": ("kept", "none needed; it is cut to the profile's max_prompt_tokens or max_completion_tokens"),
    # conversations
    "conversation has no message": ("dropped", "give the prompt at least the user's message"),
    "message is not an object": ("dropped", "write each message as an object with role and content"),
    "role is unknown": ("dropped", "use system, user or assistant"),
    "content is a list of parts": ("dropped", "write the content as one string; images and other parts are not read"),
    "last message is not the user's": ("dropped", "end the prompt with the user's message; the answer to it is the completion"),
    "roles do not alternate": ("kept", "join neighbouring messages of one role, system first; some chat templates refuse others"),
    "completion is not one message of the assistant": ("dropped", "write it as one text, or as one message of role assistant"),
    # scores
    "score is missing": ("dropped", "give the completion a number"),
    "score is a boolean": ("dropped", "write a number (1 and 0, with data.reward_min 0)"),
    "score is not a number": ("dropped", "write a number"),
    "score is not finite": ("dropped", "write a finite number"),
    "score is out of range": ("dropped", "correct it, or set data.reward_min and data.reward_max to your scale"),
    "score is a number in quotes": ("repaired", "none needed; the number was used (write it without quotes)"),
    "overall_score 10 with ratings of 2 or less": ("repaired", "none needed; set to 1 (OpenBMB/UltraFeedback issue 8)"),
    "overall_score 10 with ratings of 2 to 4": ("kept", "check it, or use the corrected release (OpenBMB/UltraFeedback issue 8)"),
    "overall_score 10 without any rating": ("kept", "check it; no rating is left to judge it by (OpenBMB/UltraFeedback issue 8)"),
    # the prompt, over all its rows
    "same completion, same score": ("dropped", "none needed; one copy was kept"),
    "same completion, different scores": ("dropped", "decide which score is right; the lower median was kept"),
    "prompt is spread over rows": ("kept", "none needed; its rows were merged"),
    "prompt has one completion": ("kept", "add completions; with one there is nothing to compare"),
    "all rewards of the prompt are equal": ("kept", "none needed; the prompt carries no preference"),
}


class Report:
    """Collects report rows; with `strict` the first dropped entry is a ValueError instead.

    part: which file of a folder, or which split, is being read ("" where there is one only); it stands before the field.
    """

    def __init__(self, name: str, *, strict: bool = False):
        self.name, self.strict, self.part, self.rows = name, strict, "", []
        self._parts: dict[str, int] = {}  # in the order of reading
        self._order: list[tuple[int, int]] = []  # of each row: its part's number and its line

    def add(self, line: int, field: str, reason: str, value: object = None, *, action: str = "") -> None:
        """Note one defect. line: 1-based line or row of the source; value: what stood there, shown by strict errors only.

        action: replaces the table's own. Raises ValueError with file, line, field and remedy if strict and dropped.
        """
        usual, remedy = DEFECTS[reason]
        field = ": ".join(filter(None, (self.part, field)))
        row = {"line": line, "field": field, "reason": reason, "remedy": remedy, "action": action or usual}
        if self.strict and row["action"] == "dropped":
            where = f"{self.name}, line {line}" + (f", {field}" if field else "")
            raise ValueError(f"{where}: {reason} ({ascii(value)[:60]}); {remedy}")
        self.rows.append(row)
        self._order.append((self._parts.setdefault(self.part, len(self._parts)), line))

    def sorted(self) -> list[dict]:
        """The rows by part and line, in the order of discovery within a line."""
        return [self.rows[i] for i in sorted(range(len(self.rows)), key=self._order.__getitem__)]


def summarise_report(report: list[dict]) -> pd.DataFrame:
    """How often each reason occurs: columns action, reason, count, first_line; the gravest and the most frequent first."""
    frame = pd.DataFrame(report, columns=COLUMNS)
    counts = frame.groupby(["action", "reason"], as_index=False).agg(count=("line", "size"), first_line=("line", "min"))
    grave = counts["action"].map({"dropped": 0, "repaired": 1, "kept": 2})
    return counts.assign(grave=grave).sort_values(["grave", "count", "reason"], ascending=[True, False, True],
                                                  ignore_index=True).drop(columns="grave")


def write_report(report: list[dict], path: str | Path) -> None:
    """Write the report as CSV (UTF-8, a header, one defect a row), also when it is empty."""
    write_table(pd.DataFrame(report, columns=COLUMNS), path)


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table as CSV with "\\n" line ends: to a temporary name first, so that a killed run leaves no half file."""
    atomic_write(path, table.to_csv(index=False, lineterminator="\n"))
