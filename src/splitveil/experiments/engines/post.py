"""How workers of a cluster tell of their progress; without torch, so that the process that keeps it stays small."""

from __future__ import annotations

from typing import Any

from splitveil.experiments.engines.jobs import Message

__all__ = ["Line", "Post"]


class Post:
    """An actor that keeps what jobs say until it is fetched."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, Message]] = []

    def put(self, job: str, message: Message) -> None:
        """Keep."""
        self.kept.append((job, message))

    def take(self) -> list[tuple[str, Message]]:
        """All that is kept, once."""
        kept, self.kept = self.kept, []
        return kept


class Line:
    """From a worker to the post."""

    def __init__(self, post: Any, job: str) -> None:
        self.post, self.job = post, job

    def send(self, message: Message) -> None:
        """Without waiting."""
        self.post.put.remote(self.job, message)
