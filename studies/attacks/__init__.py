"""Accidents and hostile files, made on purpose: what `python -m studies.attack` repeats."""
