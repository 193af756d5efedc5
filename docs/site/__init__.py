"""`make site`: a finished run, the guide and the package's names as a static site in build/site.

stage (the pages that Sphinx reads, all below build/site-source) ← home · notebooks · tables · api;
links (where a link of the repository leads on the site); mathml and docstrings are extensions of
Sphinx, docs/conf.py its settings.
"""
