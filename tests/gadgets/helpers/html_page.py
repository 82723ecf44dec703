"""A page as a browser meets it: what it would fetch or run, what it shows, how one moves in it."""

import re
from html.parser import HTMLParser
from itertools import pairwise

VOID = ("meta", "img")
ACTIVE = {"script", "link", "iframe", "object", "embed", "base", "form", "input"}
FETCHING = ("src", "href", "srcset", "data", "action", "poster", "background", "xlink:href")
HOSTILE = '<script>alert(\'x\')</script>&"<img src="http://evil.example/x.png" onerror="alert(1)">'


class Page(HTMLParser):
    """Collects elements with their attributes, the visible text, and tags that stay open."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.page = page
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        if "body" in self.open and data.strip():
            self.texts.append(" ".join(data.split()))

    @property
    def text(self) -> str:
        return " ".join(self.texts)

    @property
    def tags(self) -> list[str]:
        return [tag for tag, _ in self.elements]

    @property
    def sources(self) -> list[str]:
        return [v or "" for _, found in self.elements for k, v in found.items() if k in FETCHING]

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag in tags]


def assert_stands_alone(page: Page) -> None:
    """Nothing is fetched and nothing runs: images are in the page, and nothing else is named."""
    assert not ACTIVE & set(page.tags)
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not [key for _, found in page.elements for key in found if key.startswith("on")]
    assert "@import" not in page.page
    assert set(re.findall(r"url\((.*?)\)", page.page)) <= {"#hatch"}
    (policy,) = [e["content"] for e in page.all("meta") if "http-equiv" in e]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def assert_readable_by_all(page: Page) -> None:
    """The language is named, headings descend by single steps, pictures have words."""
    assert page.open == []
    assert page.all("html") == [{"lang": "en"}]
    levels = [int(tag[1]) for tag in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(image["alt"] for image in page.all("img"))
    drawings = page.all("svg")
    assert all(e.get("aria-label") or e.get("aria-hidden") == "true" for e in drawings)
    # what scrolls sideways is reached by keyboard
    wide = [e for e in page.all("div", "figure") if e.get("class") == "wide"]
    assert wide
    assert all(e["tabindex"] == "0" for e in wide)
    scopes = [e.get("scope") for e in page.all("th")]
    assert set(scopes) == {"col", "row"}
