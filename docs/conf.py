"""The configuration of the documentation, which `make docs` builds."""

import re
import shutil
import sys
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parent
MEASURED = DOCS.parent / "results" / "measured"

#: Figures of a study that its page shows, with what they show.
FIGURES = {
    "differences": "Differences to SGD and to the reference, with their intervals",
    "errors": "Test error of each run, and training time",
    "curves": "Test error by epoch",
    "radius": "Held-out error by radius",
}

sys.path.insert(0, str(DOCS.parent))

import sam_bench  # noqa: E402

project = "sam_bench"
author = "The sam_bench authors"
release = version = sam_bench.__version__
project_copyright = author

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"sam_bench {release}"
html_show_sphinx = False
html_static_path = ["_static"]
html_css_files = ["narrow.css"]

# A single pair of backticks in a docstring is code, as in Markdown.
default_role = "literal"
# Hooks that a method overrides are described once, in their own class.
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
myst_heading_anchors = 4

# Types in signatures that have no page here: those of Python, PyTorch and NumPy have pages on other sites, which an
# offline build cannot ask, and the others are names for types.
nitpick_ignore_regex = [
    ("py:.*", r"(torch|nn|np|numpy|collections|contextlib|typing|pathlib)\..*"),
    ("py:class", r"sam_bench\.optim\.(norms\.Direction|registry\.MethodEntry)"),
    ("py:class", r"(Any|Tensor|Optimizer|Module|GradScaler|Tensors|Gradients|Closure|Direction|Reference|T)"),
]


def write_study_pages(app: Sphinx) -> None:
    """Write a page for each study, with its tables and its figures."""
    folder = DOCS / "studies"
    folder.mkdir(exist_ok=True)
    for path in sorted(MEASURED.glob("*/table.md")):
        study = path.parent
        parts = [path.read_text(encoding="utf-8")]
        if (comparison := study / "comparison.md").is_file():
            parts += ["## Every comparison", comparison.read_text(encoding="utf-8")]
        if (sharpness := study / "sharpness.md").is_file():
            parts.append(re.sub(r"^#", "##", sharpness.read_text(encoding="utf-8"), flags=re.MULTILINE))
        figures = [name for name in FIGURES if (study / "figures" / f"{name}.png").is_file()]
        parts += ["## Figures"] if figures else []
        above = f"../../results/measured/{study.name}/figures"
        parts += [f"![{FIGURES[name]}]({above}/{name}.png)\n\n*{FIGURES[name]}.*" for name in figures]

        # Sphinx reads a page again if its file is new.
        page, text = folder / f"{study.name}.md", "\n\n".join(parts) + "\n"
        if not page.is_file() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


def prepare_page(app: Sphinx, name: str, content: list[str]) -> None:
    """Point links at files of results/, which work where files are shown as they are, at the pages made of them.

    A percent sign, and ± with what follows, stay on the line of their number.
    """
    text = re.sub(r"(?<=\d) (?=%)|(?<=\d) (?=±)|(?<=±) ", "\N{NO-BREAK SPACE}", content[0])
    text = re.sub(r"\]\(((?:\.\./)*)\.\./results/measured/(\w+)/(?:table|sharpness)\.md\)", r"](\1studies/\2.md)", text)
    text = re.sub(r"\]\(((?:\.\./)*)\.\./results/README\.md\)", r"](\1studies.md)", text)
    text = re.sub(r"\]\(((?:\.\./)+results/[^)]*\.md)\)", r"](path:\1)", text)  # to download, as it is no page
    content[0] = re.sub(r"\[([^]]*)\]\(\.\./results/measured/index\.html\)", r'<a href="results.html">\1</a>', text)


def keep_colon(app: Sphinx, what: str, name: str, item: object, options: object, lines: list[str]) -> None:
    """Keep a colon in an attribute's sentence from Napoleon, which takes what is before it for a type."""
    if what in ("attribute", "property") and lines:
        lines[0] = lines[0].replace(": ", " – ")


def copy_results_page(app: Sphinx, error: Exception | None) -> None:
    """Copy the page of all studies, which is one file, beside the built pages."""
    if error is None and app.builder.format == "html":
        shutil.copy(MEASURED / "index.html", Path(app.outdir) / "results.html")


def setup(app: Sphinx) -> None:
    """Register what this configuration does beyond its values."""
    app.connect("builder-inited", write_study_pages)
    app.connect("source-read", prepare_page)
    app.connect("autodoc-process-docstring", keep_colon, priority=400)  # before Napoleon, which has 500
    app.connect("build-finished", copy_results_page)
