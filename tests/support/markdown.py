"""The documents as the tests read them: blocks of code with what stands above them, tables, links, inline code.

    document ── blocks_of ──▶ Block(document, line, language, note, text)

A note is an HTML comment on the line above a fence; it tells the tests what a block needs and shows on no page.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from .server import ROOT

DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "deploy" / "README.md",
    ROOT / "benchmarks" / "README.md",
]


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block; `line` is that of its first line of text."""

    document: Path
    line: int
    language: str
    note: str
    text: str

    def __str__(self) -> str:
        return f"{name_of(self.document)}:{self.line}"


def name_of(document: Path) -> str:
    """Return how a document is called in the clone."""
    return str(document.relative_to(ROOT))


def blocks_of(document: Path) -> list[Block]:
    """Return all fenced blocks, whatever their language; raises ValueError for one that does not end."""
    found: list[Block] = []
    begun: tuple[int, str, str] | None = None
    before, text = "", []
    for number, line in enumerate(document.read_text().splitlines(), 1):
        if begun is None and line.startswith("```"):
            note = re.fullmatch(r"<!-- (.*) -->", before)
            begun, text = (number + 1, line[3:].strip(), note[1] if note else ""), []
        elif begun is not None and line == "```":
            found.append(Block(document, *begun, "".join(text)))
            begun = None
        else:
            text.append(line + "\n")
        before = line
    if begun is not None:
        raise ValueError(f"{name_of(document)}:{begun[0]}: the block does not end")
    return found


def blocks(language: str) -> list[Block]:
    """Return the blocks of a language in all documents."""
    return [block for document in DOCUMENTS for block in blocks_of(document) if block.language == language]


def prose(document: Path) -> str:
    """Return a document without its blocks and comments."""
    text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)


def inline_code(text: str) -> list[str]:
    """Return what stands between backticks."""
    return re.findall(r"`([^`\n]+)`", text)


def links(document: Path) -> list[str]:
    """Return where a document's links and pictures lead."""
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose(document)))


def anchors(document: Path) -> set[str]:
    """Return the names that the headings of a document have on a page."""
    titles = re.findall(r"^#+ (.*)$", prose(document), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def rows(document: Path) -> list[list[str]]:
    """Return the cells of all rows of all tables."""
    lines = [line for line in prose(document).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
