"""The documentation is true: docstring examples run, each backward has its page, and the pages' code holds."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

from normkit import reference
from normkit.nn._recurrent import PLACEMENTS

PAGES = Path(__file__).parents[2] / "docs" / "derivations"
MODULES = [f"normkit.reference.{module.name}" for module in pkgutil.iter_modules(reference.__path__)]
BACKWARDS = [name for name in reference.__all__ if name.endswith("_backward")]
FORWARDS = [name.removesuffix("_backward") for name in BACKWARDS] + ["batch_norm_running_update"]


def derived_on(page):
    """The functions a page's first paragraph says that it derives."""
    opening = re.search(r"^Derives (.+?)\n\n", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert opening, f"{page.name} does not say what it derives"
    return re.findall(r"`(\w+)`", opening.group(1))


DERIVATIONS = sorted(page for page in PAGES.glob("*.md") if page.name != "README.md")


@pytest.mark.parametrize("module", MODULES)
def test_docstring_examples_run(module):
    failed, _ = doctest.testmod(importlib.import_module(module))
    assert failed == 0


@pytest.mark.parametrize("name", FORWARDS)
def test_every_forward_has_formula_shapes_example_and_source(name):
    doc = getattr(reference, name).__doc__
    for section in ("Args:", "Shape:", "Example:", ">>> ", "Source:"):
        assert section in doc, section


def test_every_backward_is_derived_on_exactly_one_page():
    derived = [name for page in DERIVATIONS for name in derived_on(page)]
    assert sorted(derived) == sorted(BACKWARDS)


def test_every_placement_of_a_recurrent_layer_is_derived():
    page = (PAGES / "recurrent_placements.md").read_text(encoding="utf-8")
    text, code = page.split("## Check")
    for norm in PLACEMENTS:
        assert f'"{norm}"' in text
        assert f'"{norm}"' in code


@pytest.mark.parametrize("page", DERIVATIONS, ids=lambda page: page.stem)
def test_docstrings_name_the_page_that_derives_them(page):
    for name in derived_on(page):
        assert f"docs/derivations/{page.name}" in getattr(reference, name).__doc__


@pytest.mark.parametrize("page", DERIVATIONS, ids=lambda page: page.stem)
def test_every_function_a_page_names_exists(page):
    known = {name for module in MODULES for name in vars(importlib.import_module(module))}
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    named = re.findall(r"`((?:\w+_norm|standardize)\w*)`", text)
    assert named
    assert set(named) <= known


@pytest.mark.parametrize("page", DERIVATIONS, ids=lambda page: page.stem)
def test_the_page_s_own_check_holds(page):
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 1
    assert "assert" in blocks[0]
    exec(compile(blocks[0], page.name, "exec"), {})


def test_index_lists_every_page_with_what_it_derives():
    index = (PAGES / "README.md").read_text(encoding="utf-8")
    for page in DERIVATIONS:
        row = next(line for line in index.splitlines() if line.startswith(f"| [{page.name}]({page.name})"))
        assert all(f"`{name}`" in row for name in derived_on(page))


@pytest.mark.parametrize("page", [*DERIVATIONS, PAGES / "README.md"], ids=lambda page: page.stem)
def test_links_between_pages_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\((\w+\.md)(?:#([\w-]+))?\)", page.read_text(encoding="utf-8")):
        assert (PAGES / target).exists()
        if anchor:
            headings = re.findall(r"^#+ (.+)$", (PAGES / target).read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [heading.lower().replace(" ", "-") for heading in headings]
