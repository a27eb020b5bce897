"""Pictures of the page: one that stands for all, rows of reconstructions, and the worst of each run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from splitveil.errors import InputError
from splitveil.report.pictures import Encoder, Samples, load_samples, psnr_db
from splitveil.report.runs import Run
from splitveil.report.validity import Judgement
from splitveil.report.wording import INVALID, fixed

__all__ = ["Gallery", "Picture", "Row", "Sheet", "gallery"]


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture with the text that stands for it and what is written below it.

    Args:
        key: of an original; of what was recovered, that of its original: the slider lays one over the other.
    """

    uri: str
    alt: str
    key: str
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """The pictures of one run."""

    label: str
    colour: int
    note: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True)
class Sheet:
    """Originals, and below each what comes back from every run that was scored on the same pictures.

    Args:
        originals: the best recovered first, over all defended runs.
        rows: in the same order.
        orders: other orders to look at them in: a name, and the places of the pictures.
    """

    originals: tuple[Picture, ...]
    rows: tuple[Row, ...]
    orders: tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class Gallery:
    """All pictures of the page.

    Args:
        hero: one picture, original first, then as it comes back from each run.
        hero_note: which picture it is and how it was chosen.
        sheets: one per set of originals.
        worst: per run, original and reconstruction in turns, the best recovered first.
        notes: runs whose pictures cannot be shown, and why.
        side: the most pixels along a side that a picture has on the page, if pictures were scaled down, else None.
    """

    hero: tuple[tuple[str, int, Picture], ...]
    hero_note: str
    sheets: tuple[Sheet, ...]
    worst: tuple[Row, ...]
    notes: tuple[str, ...]
    side: int | None


@dataclass(frozen=True, slots=True)
class _Shown:
    run: Run
    judgement: Judgement
    samples: Samples

    @property
    def note(self) -> str:
        return INVALID if self.judgement.status == "invalid" else ""

    @property
    def attack(self) -> str:
        return self.run.name_of(self.run.headline) if self.run.headline else "attack"

    def class_name(self, index: int, label: int) -> str:
        names = self.run.evaluation.class_names if self.run.evaluation else []
        name = names[label] if 0 <= label < len(names) else str(label)
        return f"test picture {index}, class {name}"


def gallery(runs: Sequence[Run], judgements: Sequence[Judgement]) -> Gallery:
    """Read and encode the pictures of all runs."""
    shown, notes = [], []
    for run, judgement in zip(runs, judgements, strict=True):
        try:
            samples = load_samples(run)
        except InputError as error:
            notes.append(f"{run.label}: {error}")
            continue
        if samples is not None:
            shown.append(_Shown(run, judgement, samples))
        elif run.attacks:
            notes.append(f"{run.label}: its pictures were not stored")
    encoder = Encoder.fitting([item.samples for item in shown])
    largest = max((max(item.samples.originals.shape[2:]) for item in shown), default=0)
    groups = _groups(shown)
    hero, hero_note = _hero(groups[0], encoder) if groups else ((), "")
    return Gallery(
        hero=hero,
        hero_note=hero_note,
        sheets=tuple(_sheet(group, f"s{number}", encoder) for number, group in enumerate(groups)),
        worst=tuple(
            _worst(item, f"w{number}", encoder) for number, item in enumerate(shown) if len(item.samples.worst_indices)
        ),
        notes=tuple(notes),
        side=encoder.side if largest > encoder.side else None,
    )


def _groups(shown: Sequence[_Shown]) -> list[list[_Shown]]:
    groups: list[list[_Shown]] = []
    for item in shown:
        if not len(item.samples.indices):
            continue
        group = next((group for group in groups if group[0].samples.same_pictures(item.samples)), None)
        if group is None:
            groups.append([item])
        else:
            group.append(item)
    return groups


def _hero(group: Sequence[_Shown], encoder: Encoder) -> tuple[tuple[tuple[str, int, Picture], ...], str]:
    """The picture in the middle by the first run's PSNR: neither the best nor the worst may stand for all."""
    first = group[0]
    count = len(first.samples.indices)
    order = np.argsort([_psnr(first.samples, number) for number in range(count)], kind="stable")
    number = int(order[count // 2])
    original = ("original", -1, _original(first, number, "hero", encoder))
    # five beside the original still fit in one line
    rows = [(item.run.label, item.run.colour, _hero_picture(item, number, encoder)) for item in group[:5]]
    name = first.class_name(int(first.samples.indices[number]), int(first.samples.labels[number]))
    return (original, *rows), f"{name[0].upper()}{name[1:]}: the middle one of {count} by PSNR on {first.run.label}."


def _hero_picture(item: _Shown, number: int, encoder: Encoder) -> Picture:
    picture = _reconstruction(item, number, "hero", encoder)
    return replace(picture, caption=item.note or f"{picture.caption} dB")


def _sheet(group: Sequence[_Shown], key: str, encoder: Encoder) -> Sheet:
    count = len(group[0].samples.indices)
    levels = [np.array([_psnr(item.samples, number) for number in range(count)]) for item in group]
    defended = [level for item, level in zip(group, levels, strict=True) if not item.run.undefended] or levels
    first = np.argsort(-np.max(defended, axis=0), kind="stable")
    place = np.argsort(first)  # of each picture, on the page
    rows = [
        Row(
            item.run.label,
            item.run.colour,
            item.note,
            tuple(_reconstruction(item, int(number), f"{key}-{number}", encoder) for number in first),
        )
        for item in group
    ]
    orders = [("the best recovered first, over all defended runs", tuple(range(count)))]
    for item, level in zip(group, levels, strict=True):
        best = np.argsort(-level, kind="stable")
        orders.append((f"the best recovered first, from {item.run.label}", tuple(place[best].tolist())))
    orders.append(("as in the test split", tuple(place.tolist())))
    originals = tuple(_original(group[0], int(number), f"{key}-{number}", encoder) for number in first)
    return Sheet(originals, tuple(rows), tuple(orders))


def _original(item: _Shown, number: int, key: str, encoder: Encoder) -> Picture:
    samples = item.samples
    name = item.class_name(int(samples.indices[number]), int(samples.labels[number]))
    return Picture(encoder.data_uri(samples.originals[number]), f"Original, {name}", key)


def _reconstruction(item: _Shown, number: int, key: str, encoder: Encoder) -> Picture:
    samples = item.samples
    level = fixed(_psnr(samples, number), 1)
    name = item.class_name(int(samples.indices[number]), int(samples.labels[number]))
    alt = f"{name[0].upper()}{name[1:]}, as the {item.attack} attack recovers it from {item.run.label}: PSNR {level} dB"
    return Picture(encoder.data_uri(samples.reconstructions[number]), alt, key, level)


def _psnr(samples: Samples, number: int) -> float:
    return psnr_db(samples.originals[number], samples.reconstructions[number])


def _worst(item: _Shown, key: str, encoder: Encoder) -> Row:
    samples, pictures = item.samples, []
    for number, level in enumerate(samples.worst_psnr_db):
        index = int(samples.worst_indices[number])
        caption = fixed(level, 1)
        pictures += [
            Picture(
                encoder.data_uri(samples.worst_originals[number]), f"Original, test picture {index}", f"{key}-{number}"
            ),
            Picture(
                encoder.data_uri(samples.worst_reconstructions[number]),
                f"Test picture {index}, as the {item.attack} attack recovers it from {item.run.label}: "
                f"PSNR {caption} dB",
                f"{key}-{number}",
                caption,
            ),
        ]
    return Row(item.run.label, item.run.colour, item.note, tuple(pictures))
