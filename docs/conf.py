"""Sphinx's settings for the site; `make site` writes the pages it reads (docs/site)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from rpo_nb import __version__  # noqa: E402

project = "rpo_nb"
author = "the authors of rpo_nb"
copyright = f"{author}, Apache-2.0"
version = release = __version__
language = "en"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "docs.site.docstrings",
    "docs.site.mathml",
]
exclude_patterns = ["extra"]

templates_path = ["site/templates"]

# Formulas between dollars; headings can be linked to, as on GitHub.
myst_enable_extensions = ["dollarmath", "amsmath", "html_image"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # what a run computed is shown, nothing is computed again
nb_merge_streams = True
nb_ipywidgets_js = {}  # no script from elsewhere
suppress_warnings = [
    "myst.header",  # notebooks start with what they cost, some docs with a deeper heading
]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_inherit_docstrings = False  # torch's and transformers' are theirs, and written otherwise
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
default_role = "code"

html_theme = "furo"
html_title = "rpo_nb"
html_static_path = ["site/static"]
html_css_files = ["site.css"]
html_js_files = [("tables.js", {"defer": "defer"})]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_sidebars = {
    "**": [
        "sidebar/brand.html",
        "sidebar/search.html",
        "sidebar/scroll-start.html",
        "run.html",
        "sidebar/navigation.html",
        "sidebar/scroll-end.html",
    ]
}
html_math_renderer = "mathml"
