"""Pages from templates: HTML files that stand alone, with everything filled in escaped."""

from collections.abc import Mapping
from pathlib import Path

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

HERE = "gadgets.report"
DASH = "–"  # noqa: RUF001


def write_html(path: Path, template: str, values: Mapping[str, object], room: str = HERE) -> None:
    """Write a page from a template of `room`, which may build on the templates that lie here.

    Raises
    ------
    jinja2.UndefinedError
        If the template asks for a value that it was not given.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(room), PackageLoader(HERE)]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: DASH if value is None else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["fixed"] = fixed
    path.write_text(environment.get_template(template).render(values), encoding="utf-8")


def fixed(value: float | None, digits: int) -> str | None:
    """Write a number with so many decimals; None, which a page shows as a dash, stays None."""
    return None if value is None else f"{float(value):.{digits}f}"
