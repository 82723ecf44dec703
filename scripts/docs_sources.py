"""Lets pages link to files beside docs/, as they do when read in a checkout.

A link such as ``../vendor/sequence_client.c`` is right in the repository and leads nowhere in the
site. This hook of MkDocs copies each such file into the site, below ``files/``, and points the
link there. A link to a file that does not exist stays as it is, so that a strict build fails.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

LINK = re.compile(r"(?<=\]\()\.\./([^)#\s]+)")


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links out of docs/ at copies in the site."""
    root = Path(config.config_file_path).parent

    def copied(match: re.Match[str]) -> str:
        source = root / match[1]
        if not source.is_file():
            return match[0]
        target = f"files/{match[1]}"
        if source.suffix == ".md":
            target += ".txt"  # as a page it would have to be in the nav
        if files.get_file_from_path(target) is None:
            files.append(File.generated(config, target, abs_src_path=str(source)))
        return posixpath.relpath(target, posixpath.dirname(page.file.src_uri) or ".")

    return LINK.sub(copied, markdown)
