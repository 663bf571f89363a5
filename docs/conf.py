"""Sphinx settings. Nothing is fetched while building or reading: the theme brings all it needs."""

project = "trio-p2p"
author = "the trio-p2p authors"
copyright = "2026, the trio-p2p authors"

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
nitpicky = True

myst_heading_anchors = 3
html_theme = "furo"
html_title = "trio-p2p"
html_copy_source = False
