"""Sections of the page of results, each from the record of a benchmark to Markdown."""
