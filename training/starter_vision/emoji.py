"""The emoji the starter model is taught, with the names it answers by."""

from __future__ import annotations

import unicodedata

_COMMON = (
    "🐶🐱🐭🐹🐰🦊🐻🐼🐨🐯🦁🐮🐷🐸🐵🐔🐧🐦🦆🦅🦉🦇🐺🐗🐴🦄🐝🐛🦋🐌🐞🐜🕷🦂🐢🐍🦎🦖🐙🦑🦐🦀🐡🐠🐬🐳🦈🐊🐆🦓🦍🐘🦏🐪🦒"
    "🐄🐎🐖🐑🐐🦌🐕🐈🐓🦃🐇🐁🌵🎄🌲🌴🍀🍁🍄🌷🌹🌻🌞🌙⭐⚡🔥🌈☁⛄🌊"
    "🍏🍐🍊🍋🍌🍉🍇🍓🍒🍑🍍🥥🥝🍅🍆🥑🥦🥒🌽🥕🥔🥐🍞🧀🥚🥓🥩🍗🌭🍔🍟🍕🥪🌮🍝🍜🍣🍤🍦🎂🍭🍫🍿🍩🍪🍺☕🍷"
    "⚽🏀🏈🎾🎱🏓🏹🎣🥊🎸🎺🎻🥁🎲🎯🎳🚗🚕🚌🚓🚑🚒🚜🚲🚂🚀🚁⛵⚓🚢⛽🏠🏰⛺🌋⌚📱💻⌨📷📺📻⏰⌛💡🔦🕯💰💎🔧🔨⚙🔫💣🔪"
    "☎🔑🚪🛏🚽🛁🎈🎁✉📦📖✂🔒🔔👑👓👕👖👗👟🎩☂💍💄❤💀👻👽🤖🎃👂👀👄🦷✋👍"
)

_NAMES = {
    "🐶": "dog face",
    "🐱": "cat face",
    "🐦": "bird",
    "🐔": "chicken",
    "🐞": "ladybug",
    "🐝": "bee",
    "🕷": "spider",
    "🦖": "dinosaur",
    "🐡": "blowfish",
    "🐪": "camel",
    "🐳": "whale",
    "🦒": "giraffe",
    "🦓": "zebra",
    "🐴": "horse face",
    "🦄": "unicorn",
    "🦊": "fox",
    "🐻": "bear",
    "🐼": "panda",
    "🐨": "koala",
    "🦁": "lion",
    "🐸": "frog",
    "🐺": "wolf",
    "🍀": "four leaf clover",
    "🌲": "pine tree",
    "🌙": "moon",
    "🌞": "sun",
    "⭐": "star",
    "⚡": "lightning bolt",
    "☁": "cloud",
    "⛄": "snowman",
    "🌊": "wave",
    "🍏": "green apple",
    "🍊": "orange",
    "🍆": "eggplant",
    "🌽": "corn",
    "🥝": "kiwi",
    "🍞": "bread",
    "🧀": "cheese",
    "🥩": "steak",
    "🍗": "chicken leg",
    "🍕": "pizza",
    "🍟": "french fries",
    "🍝": "spaghetti",
    "🍜": "bowl of noodles",
    "🍤": "fried shrimp",
    "🍦": "ice cream",
    "🎂": "birthday cake",
    "🍩": "donut",
    "🍫": "chocolate bar",
    "🍺": "mug of beer",
    "☕": "cup of coffee",
    "🍷": "glass of wine",
    "⚽": "soccer ball",
    "🏀": "basketball",
    "🏈": "football",
    "🎾": "tennis ball",
    "🎱": "billiard ball",
    "🏓": "ping pong paddle",
    "🏹": "bow and arrow",
    "🎣": "fishing pole",
    "🥊": "boxing glove",
    "🎲": "die",
    "🎯": "dart target",
    "🎳": "bowling ball",
    "🚗": "car",
    "🚕": "taxi",
    "🚓": "police car",
    "🚒": "fire truck",
    "🚲": "bicycle",
    "🚂": "train",
    "⛵": "sailboat",
    "⛽": "gas pump",
    "🏠": "house",
    "🏰": "castle",
    "📱": "phone",
    "💻": "laptop",
    "📺": "television",
    "⌛": "hourglass",
    "💡": "light bulb",
    "🔦": "flashlight",
    "💰": "money bag",
    "💎": "diamond gem",
    "⚙": "gear",
    "🔫": "water pistol",
    "🔪": "kitchen knife",
    "☎": "telephone",
    "🛁": "bathtub",
    "🎁": "gift",
    "✉": "envelope",
    "📖": "book",
    "✂": "pair of scissors",
    "🔒": "lock",
    "👓": "pair of glasses",
    "👕": "shirt",
    "👖": "pair of jeans",
    "👟": "sneaker",
    "🎩": "top hat",
    "☂": "umbrella",
    "❤": "red heart",
    "👻": "ghost",
    "👽": "alien",
    "🤖": "robot",
    "🎃": "pumpkin",
    "👍": "thumbs up",
    "✋": "raised hand",
    "👀": "pair of eyes",
    "🎄": "christmas tree",
    "🥚": "egg",
    "🥦": "broccoli",
}

_WITHOUT_ARTICLE = frozenset(
    [
        "broccoli",
        "french fries",
        "spaghetti",
        "bread",
        "cheese",
        "corn",
        "thumbs up",
        "grapes",
        "cherries",
        "bacon",
        "sushi",
        "popcorn",
        "fire",
    ]
)

CHARACTERS: tuple[str, ...] = tuple(dict.fromkeys(_COMMON))
"""Every emoji taught, in a fixed order: an emoji's place is its class."""


def name(character: str) -> str:
    """The name of an emoji, as the model says it: its Unicode name in lower case, or the everyday one."""
    return _NAMES.get(character) or unicodedata.name(character).lower()


def with_article(noun: str) -> str:
    """``noun`` with "a" or "an", or alone where English has it so."""
    if noun in _WITHOUT_ARTICLE:
        return noun
    vowel = noun[0] in "aeiou" and not noun.startswith("uni")
    return f"{'an' if vowel or noun == 'hourglass' else 'a'} {noun}"
