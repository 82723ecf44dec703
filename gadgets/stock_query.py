"""What Gadgetron's clients ask before or instead of a scan, and our answers.

The stock client asks for stored noise on a connection of its own, with a small pipeline that ends
at once and whose answer is a DEPENDENCY message. Health checks name `isalive.xml`.
"""

from .errors import ConfigError
from .message import Dependency
from .meta import meta_to_xml
from .stock_xml import Document, read

IS_ALIVE = "isalive.xml"
# Gadgets of such pipelines, and Gadgetron's own files that hold one of them.
_NOISE_SUMMARY, _DEPENDENCY_QUERY = "NoiseSummaryGadget", "DependencyQueryGadget"
_FILES = {"NoiseSummary.xml": _NOISE_SUMMARY, "gtquery.xml": _DEPENDENCY_QUERY}
_ANSWERS = {
    _NOISE_SUMMARY: {"status": "failed"},  # none is stored
    _DEPENDENCY_QUERY: {"NoiseDependencies": "Dummy"},  # the word for none
}


def named(name: str) -> Dependency | None:
    """Return the answer to a configuration's name; None if it is no query."""
    return _answer(_FILES[name]) if name in _FILES else None


def inline(xml: bytes) -> Dependency | None:
    """Return the answer to a pipeline that is a query and nothing else; None if it is not."""
    try:
        document = read(xml)
    except ConfigError:
        return None  # whoever loads it will say why
    return _answer(document.stream[0].classname) if _is_query(document) else None


def _is_query(document: Document) -> bool:
    return (
        len(document.stream) == 1
        and document.stream[0].classname in _ANSWERS
        and document.writers == ("DependencyQueryWriter",)
    )


def _answer(classname: str) -> Dependency:
    return Dependency(meta_to_xml(_ANSWERS[classname]))
