"""Questions about a picture, in several phrasings, with the answer the model should give.

The last two phrasings of every list are kept for the held-out split.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

HELD_OUT = 2
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")

WHAT = (
    "What is in this picture?",
    "What is in the image?",
    "What do you see?",
    "What's this?",
    "What is shown here?",
    "Describe the picture.",
    "Describe this image.",
    "What can you see in this image?",
    "What does the picture show?",
    "What is this?",
    "Tell me what is in the picture.",
    "What object is this?",
    "What does this image contain?",
    "Can you tell me what this picture shows?",
)
COLOUR_OF = (
    "What color is the {shape}?",
    "What colour is the {shape}?",
    "Which color does the {shape} have?",
    "What is the color of the {shape}?",
    "Tell me the color of the {shape}.",
    "The {shape} is what color?",
    "Which colour is the {shape}?",
    "Can you name the color of the {shape}?",
)
SHAPE_OF = (
    "What shape is this?",
    "Which shape is in the picture?",
    "What shape do you see?",
    "What {colour} shape is this?",
    "What is the shape of the {colour} object?",
    "Name the shape.",
    "Which shape does the image show?",
    "What shape is the {colour} thing?",
)
COLOUR_SHAPE = (
    "What shape is this and what color is it?",
    "Name the shape and its color.",
    "What colored shape is in the picture?",
    "What is the color and shape of the object?",
    "Which shape is shown, and in which color?",
    "Tell me the color and the shape you see.",
)
HOW_MANY = (
    "How many {things} are there?",
    "How many {things} are in the picture?",
    "How many {things} do you see?",
    "Count the {things}.",
    "Please count the {things}.",
    "Can you tell me how many {things} there are?",
    "Could you count the {things} for me?",
    "What is the number of {things}?",
    "How many {things} are in this image?",
    "how many {things}?",
    "How many {things} can you count?",
    "Can you count the {things} in the picture?",
)
SIDE = (
    "Is {a} to the left or to the right of {b}?",
    "Is {a} left or right of {b}?",
    "Which side of {b} is {a} on, left or right?",
    "Is {a} on the left or the right of {b}?",
    "Left or right: where is {a} relative to {b}?",
    "On which side of {b} is {a}?",
)
HEIGHT = (
    "Is {a} above or below {b}?",
    "Is {a} over or under {b}?",
    "Is {a} higher or lower than {b}?",
    "Is {a} located above {b} or below it?",
    "Above or below: where is {a} relative to {b}?",
    "Does {a} lie above or below {b}?",
)
WHERE = (
    "Where is {a} relative to {b}?",
    "Where is {a} compared to {b}?",
    "Where is {a}, seen from {b}?",
    "What is the position of {a} relative to {b}?",
    "How is {a} placed relative to {b}?",
    "In which direction from {b} is {a}?",
)
YES_NO = (
    "Is {a} {relation} {b}?",
    "Is it true that {a} is {relation} {b}?",
    "Would you say {a} is {relation} {b}?",
    "Can you see {a} {relation} {b}?",
)
WHICH_LEFT = (
    "What is {relation} {b}?",
    "Which object is {relation} {b}?",
    "What do you see {relation} {b}?",
    "What can be seen {relation} {b}?",
    "Which thing is {relation} {b}?",
)
PLACE = (
    "Where is {a}?",
    "Where in the picture is {a}?",
    "In which part of the image is {a}?",
    "Where do you see {a}?",
    "Whereabouts is {a}?",
)
READ = (
    "What does it say?",
    "What word is written here?",
    "Read the text.",
    "What is the word in the picture?",
    "What text is in the image?",
    "Which word do you see?",
    "What is written in the picture?",
    "Read the word.",
    "What does the text say?",
    "What's written here?",
    "Which word is shown in this image?",
    "Can you read the word in the picture?",
)
EMOJI = (
    "Which emoji is this?",
    "What emoji is shown?",
    "Name the object in the picture.",
    "What is the name of this thing?",
    "Which thing is in the picture?",
    "What is this emoji called?",
    "What is this a picture of?",
    "Which object do you see here?",
)
PRESENT = (
    "Is there {a} in the picture?",
    "Does the picture show {a}?",
    "Do you see {a}?",
    "Is this {a}?",
    "Can you see {a} here?",
    "Is {a} in the image?",
    "Does this image contain {a}?",
)
GROUND = (
    "What color is the background?",
    "What colour is the background?",
    "Which color does the background have?",
    "What is the background color?",
    "On what color is it drawn?",
)


def phrase(rng: Random, split: str, forms: Sequence[str], **words: str) -> str:
    """One of ``forms`` filled in; "train" now and then drops the capital or the mark at the end."""
    if split == "test":
        return rng.choice(forms[-HELD_OUT:]).format(**words)
    text = rng.choice(forms[:-HELD_OUT]).format(**words)
    luck = rng.random()
    if luck < 0.1:
        return text.lower()
    if luck < 0.18:
        return text.rstrip("?.")
    if luck < 0.24:
        return f"{text} Answer briefly."
    return text


def sentence(text: str) -> str:
    """``text`` with a capital and a full stop."""
    return f"{text[0].upper()}{text[1:]}."


def plural(noun: str) -> str:
    """The plural of a shape's name."""
    return f"{noun}es" if noun.endswith(("s", "sh", "x")) else f"{noun}s"


def joined(parts: Sequence[str]) -> str:
    """A list in words."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
