"""splitveil: split inference that keeps its pictures."""

__version__ = "0.1.0"
