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
    "What does the image show?",
    "Look at the picture. What is in it?",
    "What do we have here?",
    "Please describe the picture.",
    "Describe what you see.",
    "What is on the picture?",
    "Say what is in the image.",
    "What is depicted here?",
    "Could you describe this picture?",
    "What is this image of?",
    "Do you recognize what is in this picture?",
    "I am looking at a picture. What is in it?",
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
    "What color has the {shape}?",
    "Please name the color of the {shape}.",
    "How is the {shape} colored?",
    "In which color is the {shape} drawn?",
    "I want to know the color of the {shape}.",
    "Say what color the {shape} is.",
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
    "Please name the shape of the {colour} thing.",
    "What is the {colour} shape called?",
    "What form does the {colour} object have?",
    "Tell me which shape this is.",
    "What kind of shape is shown?",
    "Do you know what shape this is?",
    "Which shape does the image show?",
    "What shape is the {colour} thing?",
)
COLOUR_SHAPE = (
    "What shape is this and what color is it?",
    "Name the shape and its color.",
    "What colored shape is in the picture?",
    "What is the color and shape of the object?",
    "What are the shape and the color?",
    "Which color and which shape do you see?",
    "Say the color and the shape.",
    "Name the color and the shape of the object.",
    "Give me the shape with its color.",
    "What shape do you see, and what is its color?",
    "What color and shape is the object in the picture?",
    "Please tell me the color and shape of the thing.",
    "Describe the shape and the color.",
    "Describe the shape in the picture and its color.",
    "Can you name the shape and say which color it has?",
    "Which shape is it? Which color does it have?",
    "What is the shape, and what color does it have?",
    "What do you see: which color, which shape?",
    "State the shape and its color.",
    "I would like to know the shape and its color.",
    "Which colored shape is this?",
    "What is drawn here, and in what color?",
    "Color and shape, please.",
    "Say which shape is in the image and what color it is.",
    "In what color is the shape, and which shape is it?",
    "What thing is shown, what color is it?",
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
    "How many {things} does the picture show?",
    "How many {things} does the image contain?",
    "What number of {things} is there?",
    "Tell me how many {things} you see.",
    "Say how many {things} there are.",
    "How many {things} can be seen?",
    "How many {things} have been drawn?",
    "Give me the number of {things}.",
    "I want to know how many {things} are in the picture.",
    "Are there many {things}? How many?",
    "Do you know how many {things} there are?",
    "Look at the {things}. How many are there?",
    "Count all the {things} in the image.",
    "Number of {things}?",
    "Look closely and count the {things}.",
    "How many {things} did you find?",
    "Please say how many {things} there are.",
    "There are some {things} here. How many?",
    "Would you count the {things}?",
    "Count the {things} you see in this picture.",
    "Can you say how many {things} are shown?",
    "What is the count of {things} here?",
    "How many {things} can you count?",
    "Can you count the {things} in the picture?",
)
SIDE = (
    "Is {a} to the left or to the right of {b}?",
    "Is {a} left or right of {b}?",
    "Which side of {b} is {a} on, left or right?",
    "Is {a} on the left or the right of {b}?",
    "Does {a} lie to the left or to the right of {b}?",
    "Where is {a}: left or right of {b}?",
    "Look at {a} and {b}. Is {a} on the left or on the right?",
    "Seen from {b}, is {a} left or right?",
    "Is {a} placed to the left or the right of {b}?",
    "Say whether {a} is to the left or to the right of {b}.",
    "Tell me which side of {b} {a} is on.",
    "Do you see {a} to the left or to the right of {b}?",
    "To which side of {b} is {a}?",
    "Would you say {a} is left or right of {b}?",
    "Right or left of {b}: where is {a}?",
    "On what side of {b} does {a} lie?",
    "Is {a} to the right or to the left of {b}?",
    "{a}: left or right of {b}?",
    "Which side of {b} do you see {a} on?",
    "At which side of {b} would you look for {a}?",
    "Is it left or right of {b} that {a} is?",
    "From {b}, do you go left or right to get to {a}?",
    "Left or right: where is {a} relative to {b}?",
    "On which side of {b} is {a}?",
)
HEIGHT = (
    "Is {a} above or below {b}?",
    "Is {a} over or under {b}?",
    "Is {a} higher or lower than {b}?",
    "Is {a} located above {b} or below it?",
    "Where is {a}: above or below {b}?",
    "Look at {a} and {b}. Is {a} above or below?",
    "Seen from {b}, is {a} above or below?",
    "Is {a} placed above or below {b}?",
    "Say whether {a} is above or below {b}.",
    "Tell me if {a} is above {b} or below it.",
    "Do you see {a} above or below {b}?",
    "Would you say {a} is above or below {b}?",
    "Is {a} below or above {b}?",
    "Over or under {b}: where is {a}?",
    "{a}: above or below {b}?",
    "Which is it, {a} above {b} or {a} below {b}?",
    "Can {a} be found above or below {b}?",
    "Is {a} further up or further down than {b}?",
    "From {b}, do you go up or down to get to {a}?",
    "Has {a} been drawn above or below {b}?",
    "Is it above or below {b} that {a} is?",
    "Below or above {b}: where do you see {a}?",
    "Above or below: where is {a} relative to {b}?",
    "Does {a} lie above or below {b}?",
)
WHERE = (
    "Where is {a} relative to {b}?",
    "Where is {a} compared to {b}?",
    "Where is {a}, seen from {b}?",
    "What is the position of {a} relative to {b}?",
    "Tell me where {a} is relative to {b}.",
    "Say where {a} is, seen from {b}.",
    "Where do you find {a} relative to {b}?",
    "Where does {a} lie compared to {b}?",
    "Describe where {a} is relative to {b}.",
    "Compared to {b}, where is {a}?",
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
    "What can you read here?",
    "Tell me what is written.",
    "Which word is this?",
    "What word is this?",
    "Please read the word.",
    "Say the word in the image.",
    "What is the text?",
    "Read what it says.",
    "Do you see a word? Which one?",
    "What word does the picture show?",
    "Read this to me.",
    "The picture has some text. What is it?",
    "Could you read this word for me?",
    "Type the word that you see.",
    "What word can you see?",
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
    "What thing is shown here?",
    "Tell me what this is called.",
    "What object is shown?",
    "What do you call this?",
    "Name this thing.",
    "Do you know what this is?",
    "Which object is in the image?",
    "Please name what you see.",
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
