"""The pages of the documentation, taken apart: prose, links, headings, blocks of code."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
MARKED = re.compile(r"^<!-- needs: ([\w. ]+) -->\n```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Page:
    """A page of Markdown; `name` is its path in the repository."""

    name: str

    @property
    def path(self) -> Path:
        return ROOT / self.name

    @property
    def text(self) -> str:
        return self.path.read_text()

    @property
    def prose(self) -> str:
        """All but the blocks of code."""
        return FENCE.sub("", self.text)

    def blocks(self, language: str) -> list[str]:
        """The blocks of code in one language, in order."""
        return [code for name, code in FENCE.findall(self.text) if name == language]

    def block(self, word: str) -> str:
        """The one block of Python with this word."""
        (found,) = [code for code in self.blocks("python") if word in code]
        return found

    def table(self, heading: str) -> list[list[str]]:
        """The rows of the table whose first line begins so, each as its cells."""
        rows = self.text[self.text.index(f"\n{heading}") + 1 :].partition("\n\n")[0].splitlines()
        return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]

    @property
    def recipes(self) -> dict[str, str]:
        """The blocks of Python that are marked to need libraries, each whole by itself, by these."""
        return dict(MARKED.findall(self.text))

    @property
    def links(self) -> list[str]:
        return LINK.findall(self.prose)

    @property
    def spans(self) -> list[str]:
        """What is written between backticks in the prose."""
        return re.findall(r"`([^`\n]+)`", self.prose)

    @property
    def anchors(self) -> set[str]:
        """The anchor of each heading, as GitHub and mkdocs make it: small letters, without punctuation, hyphens."""
        headings = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


PAGES = [
    Page(str(path.relative_to(ROOT)))
    for path in (ROOT / "README.md", ROOT / "results" / "README.md", *sorted((ROOT / "docs").glob("*.md")))
]
README = PAGES[0]


def page(name: str) -> Page:
    """A page of docs/ by its name."""
    (found,) = [each for each in PAGES if each.name == f"docs/{name}.md"]
    return found
