"""Wordings of the questions. `sight` uses the first three of each form, `read` all of them.

Fields: {p} where in the chart, {a} {b} marks, {noun} mark, {adj} high, {more}/{most} in the question's direction, {size}
height, {what} colour or label, {v} a number with its unit, {u} the unit asked for, {ord} {side} a place.
"""

from __future__ import annotations

SIGHT_PHRASINGS = 3

PHRASINGS: dict[str, tuple[str, ...]] = {
    "value": (
        "{p}how {adj} is {a}{u}?", "{p}what is the {size} of {a}{u}?", "{p}what value does {a} have{u}?",
        "{p}what is the value of {a}{u}?", "{p}which number belongs to {a}{u}?",
    ),
    "label_value": (
        "{p}which {noun} has a {size} of {v}?", "{p}which {noun} has the value {v}?", "{p}which {noun} shows {v}?",
        "{p}what stands at {v}?",
    ),
    "label_place": (
        "What is the {what} of the {ord} bar from the {side}?", "Which {what} belongs to the {ord} bar from the {side}?",
        "Counting from the {side}, what is the {what} of the {ord} bar?",
    ),
    "label_next": (
        "What is the {what} of the bar just {beside} {a}?", "Which {what} belongs to the bar just {beside} {a}?",
    ),
    "extremum": (
        "{p}which {noun} is {most}?", "{p}which is the {most} {noun}?", "{p}what is the {what} of the {most} {noun}?",
        "{p}which {noun} is the {most} of all?",
    ),
    "compare": (
        "{p}which is {more}: {a} or {b}?", "{p}of {a} and {b}, which is {more}?", "{p}is {a} or {b} {more}?",
        "{p}compare {a} with {b}: which is {more}?",
    ),
    "count": ("How many {nouns} are there?", "How many {nouns} does the chart have?", "What is the number of {nouns}?"),
    "count_within": ("How many {nouns} does each {item} have?", "How many {nouns} are there for each {item}?"),
    "count_beyond": (
        "{p}how many {noun}s are {more} than {v}?", "{p}how many of the {noun}s are {more} than {v}?",
        "{p}what is the number of {noun}s {more} than {v}?",
    ),
    "sum": (
        "{p}what is the sum of {a} and {b}{u}?", "{p}how much are {a} and {b} together{u}?", "{p}add {a} and {b}{u}.",
        "{p}what do {a} and {b} come to{u}?",
    ),
    "total": (
        "{p}what is the sum of all {noun}s{u}?", "{p}how much are all {noun}s together{u}?", "{p}what is the total{u}?",
        "{p}add all {noun}s{u}.",
    ),
    "difference": (
        "{p}how much {more} is {a} than {b}{u}?", "{p}what is the difference between {a} and {b}{u}?",
        "{p}by how much is {a} {more} than {b}{u}?", "{p}how far apart are {a} and {b}{u}?",
    ),
    "ratio": (
        "{p}how many times the {size} of {b} is {a}{r}?", "{p}what is the ratio of {a} to {b}{r}?",
        "{p}how many times as {adj} as {b} is {a}{r}?", "{p}what is {a} divided by {b}{r}?",
    ),
    "average": (
        "{p}what is the average of {a} and {b}{u}?", "{p}what is the mean of {a} and {b}{u}?",
        "{p}how {adj} are {a} and {b} on average{u}?",
    ),
    "mean": (
        "{p}what is the average of all {noun}s{u}?", "{p}what is the mean of all {noun}s{u}?",
        "{p}how {adj} are the {noun}s on average{u}?",
    ),
    "trend": (
        "What is the trend of {a}: rising, falling, flat or mixed?", "Is {a} rising, falling, flat or mixed?",
        "How does {a} run: rising, falling, flat or mixed?",
        "Does {a} go up, down, stay or turn: rising, falling, flat or mixed?",
    ),
    "yes_more": (
        "{p}is {a} {more} than {b}?", "{p}does {a} come out {more} than {b}?",
        "{p}would you say {a} is {more} than {b}?",
        "{p}yes or no: {a} is {more} than {b}.",
    ),
    "yes_beyond": (
        "{p}is {a} {more} than {v}?", "{p}is the {size} of {a} {above} {v}?", "{p}yes or no: {a} is {more} than {v}.",
    ),
    "yes_most": ("{p}is {a} the {most}?", "{p}is {a} the {most} {noun}?", "{p}is it true that {a} is the {most}?"),
    "yes_there": (
        "Is there {one} in the chart?", "Does the chart show {one}?", "Can you see {one}?", "Is {one} part of this chart?",
    ),
    "yes_trend": ("Is {a} {trend}?", "Is it true that {a} is {trend}?", "Would you call {a} {trend}?"),
}  # fmt: skip


def phrase(form: str, variant: int, fields: dict[str, str]) -> str:
    text = PHRASINGS[form][variant].format(**fields)
    return text[0].upper() + text[1:]
