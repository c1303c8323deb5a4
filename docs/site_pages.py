"""A hook of mkdocs: README.md becomes the site's first page, and each file that a page links to gets a page of its own.

In the repository such links lead to the files themselves, so the site needs a copy of each.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

LINK = re.compile(r"(?<=\]\()(?!\w+:)([^)#\s]+)")
MEDIA = (".svg", ".png")
FIRST = "index.md"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the first page, and the files outside docs/ that pages link to."""
    root = Path(config.config_file_path).parent
    files.append(File.generated(config, FIRST, content=(root / "README.md").read_text()))
    linked = {
        path
        for page in files.documentation_pages()
        for link in LINK.findall(page.content_string)
        if (path := outside(page.src_uri, link)) and (root / path).is_file()  # mkdocs warns of the others
    }
    for path in sorted(linked):
        if path.endswith(MEDIA):
            files.append(File.generated(config, place(path), abs_src_path=str(root / path)))
        else:
            files.append(File.generated(config, place(path), content=page_of(root / path, path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Have each link lead to where its file is on the site."""
    here = page.file.src_uri
    return markdown if here.startswith("source/") else LINK.sub(lambda link: link_on_site(here, link[1]), markdown)


def outside(page: str, link: str) -> str | None:
    """The path from the repository's root of the file that a page links to, where it has no place on the site yet."""
    path = in_repository(page, link)
    return None if path == "README.md" or path.startswith("docs/") else path


def in_repository(page: str, link: str) -> str:
    folder = "" if page == FIRST else "docs"
    return posixpath.normpath(posixpath.join(folder, link))


def link_on_site(page: str, link: str) -> str:
    """The link that has the same meaning on the site; all pages but the sources are in one folder there."""
    path = in_repository(page, link)
    if path == "README.md":
        return FIRST
    return path.removeprefix("docs/") if path.startswith("docs/") else place(path)


def place(path: str) -> str:
    """The place on the site of a file outside docs/."""
    return f"source/{path}" if path.endswith((*MEDIA, ".md")) else f"source/{path}.md"


def page_of(file: Path, path: str) -> str:
    """A page that shows a file; the search leaves it out."""
    text = file.read_text()
    head = f'---\ntitle: "{path}"\nsearch:\n  exclude: true\n---\n\n'
    if path.endswith(".md"):
        return head + text
    kind = {"py": "python", "toml": "toml"}.get(path.rpartition(".")[2], "text")
    return f"{head}# {path}\n\n````{kind}\n{text.rstrip()}\n````\n"
