"""Where a link of the repository leads on the site: to a page, to a file of the run, else to the
repository itself."""

from __future__ import annotations

import posixpath
import re
from pathlib import PurePosixPath

from rpo_nb.config.loading import REPOSITORY

LINK = re.compile(r"\]\((?P<target>[^)#\s]*)(?P<anchor>#[^)\s]*)?\)")
BADGE = re.compile(r"\[!\[Open [Ii]n Colab\]\([^)]*\)\]\((?P<target>[^)]*)\)")
ELSEWHERE = re.compile(r"[a-z]+:")
FILES = (".png", ".svg")


class Links:
    """pages: a file of the repository -> the site's page of it, both as paths with their
    endings."""

    def __init__(self, pages: dict[str, str]):
        self.pages = pages
        self.shown: set[str] = set()  # pictures of the repository that pages show

    def rewritten(self, text: str, file: str, page: str) -> str:
        """Markdown of `file`, a path in the repository, as it stands on the site's `page`."""
        text = BADGE.sub(r"[Open in Colab](\g<target>)", text)
        return LINK.sub(lambda found: f"]({self._target(found, file, page)})", text)

    def _target(self, found: re.Match, file: str, page: str) -> str:
        target, anchor = found["target"], found["anchor"] or ""
        if not target or ELSEWHERE.match(target):
            return target + anchor
        path = posixpath.normpath(posixpath.join(posixpath.dirname(file), target))
        if path in self.pages:
            return relative(self.pages[path], page) + anchor
        if path.endswith(FILES):
            self.shown.add(path)
            return relative(path, page)
        return f"{REPOSITORY}/blob/main/{path}{anchor}"


def relative(target: str, page: str) -> str:
    """The way from a page to another file of the site."""
    return posixpath.relpath(target, PurePosixPath(page).parent)
