"""The fenced blocks of the documentation: what a reader copies, and the output that the page shows for it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"# ([\w/.-]+\.\w+)\n")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: str
    line: int
    language: str
    text: str
    output: str = ""
    """What it prints, by the first ``text`` block that follows it; ``…`` stands for anything."""

    @property
    def file_name(self) -> str:
        """The file that a reader saves it as: the name in its first comment, or one made of its place."""
        match = FILE_NAME.match(self.text)
        return match[1] if match else f"{Path(self.page).stem.replace('-', '_')}_line_{self.line}.py"


def blocks(language: str, pages: list[Path] = PAGES) -> list[Block]:
    """The fenced blocks in one language, in the order of the pages."""
    return [block for page in pages for block in _blocks_with_output(page) if block.language == language]


def _blocks_with_output(page: Path) -> list[Block]:
    """All blocks of a page; a ``text`` block is the output of the last Python block before it that has none yet."""
    found: list[Block] = []
    for block in _blocks_of(page):
        owner = next((n for n in reversed(range(len(found))) if found[n].language == "python"), None)
        if block.language == "text" and owner is not None and not found[owner].output:
            found[owner] = replace(found[owner], output=block.text)
        found.append(block)
    return found


def _blocks_of(page: Path) -> Iterator[Block]:
    content = page.read_text()
    for match in FENCE.finditer(content):
        yield Block(page.name, content.count("\n", 0, match.start()) + 2, match[2], dedent(match[3]))
