"""What mkdocs needs beside docs/: the README and CONTRIBUTING as pages, and links that stay within the site.

A hook of mkdocs.yml. A link to a file outside the site, such as the code or a result, becomes its text with
the file's path; test_architecture checks that the file is there.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
# Pages of the site that lie elsewhere in the repository.
ELSEWHERE = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md"}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that lie elsewhere, and the pictures in them."""
    for source, page in ELSEWHERE.items():
        text = (ROOT / source).read_text("utf-8")
        files.append(File.generated(config, page, content=text))
        for mark, _, target, _ in LINK.findall(text):
            if mark:
                files.append(File.generated(config, target, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """The page with its links as they are on the site."""
    place = page.file.src_uri
    source = next((source for source, page in ELSEWHERE.items() if page == place), f"docs/{place}")

    def renewed(match: re.Match) -> str:
        mark, text, target, anchor = match.groups()
        if target.startswith(("http:", "https:", "mailto:")):
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        on_site = ELSEWHERE.get(path, path.removeprefix("docs/"))
        if files.get_file_from_path(on_site):
            return f"{mark}[{text}]({on_site}{anchor or ''})"
        return text if path in text else f"{text} (`{path}`)"

    return LINK.sub(renewed, markdown)
