"""sealvm: virtual machines that start only on computers in a trustworthy state.

Packages are nouns of the field and trust boundaries; arrows between them only point down (docs/layout.md, held by
import-linter). This module imports nothing, so that importing any part of sealvm costs only that part.
"""
