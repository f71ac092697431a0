"""Dates in a note, and what "yesterday", "last week" or "two years ago" mean in one that says when it was written."""

from __future__ import annotations

import datetime
import re
from typing import NamedTuple

_MONTHS = "january february march april may june july august september october november december".split()
_DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
_MONTH = rf"(?:{'|'.join(f'{month[:3]}(?:{month[3:]})?' for month in _MONTHS if month != 'may')}|may)"
_DAY = "mon(?:day)?|tue(?:s(?:day)?)?|wed(?:nesday)?|thu(?:rs(?:day)?)?|fri(?:day)?|sat(?:urday)?|sun(?:day)?"
_NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split()
_COUNT = rf"(?P<count>\d{{1,3}}|an?|{'|'.join(_NUMBERS[1:])}|(?:a )?few|(?:a )?couple(?: of)?)"

_FULL = re.compile(
    rf"\b(?:(?P<iso>\d{{4}}-\d{{2}}-\d{{2}})"
    rf"|(?P<day>\d{{1,2}})(?:st|nd|rd|th)? (?P<month>{_MONTH})\.?,? (?P<year>\d{{4}})"
    rf"|(?P<month2>{_MONTH})\.? (?P<day2>\d{{1,2}})(?:st|nd|rd|th)?,? (?P<year2>\d{{4}}))\b",
    re.IGNORECASE,
)
# In the order in which they are looked for: an expression that says more stands before one that says less
_SAID = tuple(
    rf"\b(?:{said})\b"
    for said in (
        r"(?P<before2>(?:the )?day before yesterday)",
        r"(?P<yesterday>yesterday|last night)",
        r"(?P<tomorrow>tomorrow)",
        rf"{_COUNT} (?P<unit>day|night|week|weekend|month|year)s? (?:ago|back)",
        rf"(?P<which>last|this past|past|previous|this|this coming|next) "
        rf"(?P<span>weekend|week|month|year|{_DAY}|spring|summer|autumn|fall|winter)",
        rf"(?:on |the )?(?P<dayof>\d{{1,2}})(?:st|nd|rd|th)?(?: of)? (?P<in1>{_MONTH})",
        rf"(?P<in2>{_MONTH}) (?P<dayof2>\d{{1,2}})(?:st|nd|rd|th)?",
        rf"(?:in|since|of|during|early|late|last|next|this) (?P<inmonth>{_MONTH})(?:,? (?P<inyear>\d{{4}}))?",
        r"(?:in|since|of|during|back in) (?P<year>(?:19|20)\d\d)",
        r"(?P<lately>the other day|a few days ago|recently)",
        r"(?P<today>today|tonight|this morning|this afternoon|this evening)",
    )
)
_RELATIVE = tuple(re.compile(pattern, re.IGNORECASE) for pattern in _SAID)


class Found(NamedTuple):
    """A full date in a text."""

    day: datetime.date
    start: int
    end: int


def first_date(text: str) -> Found | None:
    """The first full date of a text; None where there is none, or it is no day of the calendar ("31 June 2023")."""
    for found in _FULL.finditer(text):
        try:
            if found["iso"]:
                return Found(datetime.date.fromisoformat(found["iso"]), found.start(), found.end())
            day, month, year = (found[name] or found[f"{name}2"] for name in ("day", "month", "year"))
            return Found(datetime.date(int(year), _month(month), int(day)), found.start(), found.end())
        except ValueError:
            continue
    return None


def time_of(sentence: str, note: datetime.date | None) -> str:
    """When what a sentence says took place, as far as it says so; "" where it does not.

    note: the day on which it was written. "we met yesterday" of 8 May 2023: "7 May 2023"; "last week": "the week before
    8 May 2023"; "last month": "April 2023".
    """
    full = first_date(sentence)
    if full is not None:
        return written(full.day)
    for pattern in _RELATIVE:
        found = pattern.search(sentence)
        if found is not None:
            try:
                return _resolved(found.groupdict(), found.group(), note)
            except (ValueError, OverflowError):  # no such day, or beyond the calendar
                continue
    return ""


def _resolved(said: dict[str, str | None], text: str, note: datetime.date | None) -> str:
    if (year := said.get("inyear") or said.get("year")) is not None:
        return f"{_name(said['inmonth'])} {year}" if said.get("inmonth") else year
    if note is None:
        return text
    for name, days in (("before2", -2), ("yesterday", -1), ("tomorrow", 1), ("today", 0)):
        if said.get(name):
            return written(note + datetime.timedelta(days))
    if said.get("lately"):
        return f"a few days before {written(note)}"
    if (count := said.get("count")) is not None:
        return _ago(count.lower(), (said["unit"] or "").lower(), note)
    if (which := said.get("which")) is not None:
        return _neighbour(which.lower(), (said["span"] or "").lower(), note)
    if (month := said.get("inmonth")) is not None:
        return f"{_name(month)} {note.year}"
    day, month = said.get("dayof") or said.get("dayof2"), said.get("in1") or said.get("in2")
    return written(datetime.date(note.year, _month(month or ""), int(day or 0)))


def _ago(count: str, unit: str, note: datetime.date) -> str:
    if not count.isdigit() and count not in ("a", "an", *_NUMBERS):
        return f"a few {unit}s before {written(note)}"
    number = int(count) if count.isdigit() else _NUMBERS.index(count) if count in _NUMBERS else 1
    if unit in ("day", "night"):
        return written(note - datetime.timedelta(number))
    if unit == "month":
        return _month_of(note, -number)
    if unit == "year":
        return str(note.year - number)
    return f"the {unit} before {written(note)}" if number == 1 else f"{count} {unit}s before {written(note)}"


def _neighbour(which: str, span: str, note: datetime.date) -> str:
    side = {"this": 0, "next": 1, "this coming": 1}.get(which, -1)
    if span == "month":
        return _month_of(note, side)
    if span == "year":
        return str(note.year + side)
    if span in ("spring", "summer", "autumn", "fall", "winter"):
        return f"{span} {note.year + min(side, 0) if side else note.year}"
    if span not in ("week", "weekend"):
        span = next(day.capitalize() for day in _DAYS if day.startswith(span[:3]))
    return f"the {span} {('before', 'of', 'after')[side + 1]} {written(note)}"


def _month_of(note: datetime.date, months: int) -> str:
    year, month = divmod(note.year * 12 + note.month - 1 + months, 12)
    return f"{_MONTHS[month].capitalize()} {year}"


def _month(name: str) -> int:
    return next(i for i, month in enumerate(_MONTHS, start=1) if month.startswith(name[:3].lower()))


def _name(name: str | None) -> str:
    return _MONTHS[_month(name or "") - 1].capitalize()


def written(day: datetime.date) -> str:
    """8 May 2023."""
    return f"{day.day} {_MONTHS[day.month - 1].capitalize()} {day.year}"
