"""What the people of the diary are called, have and say."""

from __future__ import annotations

NAMES = """Maya Jonas Anna Felix Clara Ivan Nora Pablo Greta Omar Lucy Henrik Rosa Tariq Wendy Boris Alma Diego
Paula Victor Ida Marco Lena Hugo Sofia Arthur Mina Pavel Tess Ravi Olga Simon Vera Leo Edith Karl June Milo Zara
Emil""".split()

PEOPLE = """Orlov Petrov Malone Singh Becker Duarte Novak Okafor Lindgren Tanaka Moretti Haas Quinn Barros Keller
Yilmaz Stone Fischer Adler Costa Varga Nilsen Roth Sato Webb""".split()
PLACES = """Lisbon Oslo Quito Riga Turin Cairo Bergen Hanoi Porto Graz Lima Nantes Tbilisi Seville Utrecht Izmir
Dakar Leeds Osaka Split Ghent Bilbao Perth Malmo Zagreb""".split()
COLOURS = """red green blue yellow purple orange silver golden brown grey white black pink turquoise crimson
violet""".split()
FOODS = """soup lentils pancakes noodles dumplings risotto salad curry omelette stew pizza porridge tacos couscous
pickles goulash waffles lasagna""".split()
ANIMALS = """cat dog parrot rabbit hamster turtle goldfish lizard pony canary ferret hedgehog goat donkey""".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
THINGS = """violin kettle lamp ladder guitar blanket compass umbrella camera teapot clock mirror vase hammer drum
backpack telescope""".split()
NUMBERS = """eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty
sixty seventy eighty ninety""".split()

# attribute -> the words its value is drawn from
ATTRIBUTES: dict[str, list[str]] = {
    **dict.fromkeys("dentist teacher landlord neighbour coach boss".split(), PEOPLE),
    **dict.fromkeys("hometown office holiday birthplace destination".split(), PLACES),
    **dict.fromkeys("bicycle door car scarf sofa tent".split(), COLOURS),
    **dict.fromkeys("breakfast dinner snack lunch".split(), FOODS),
    **dict.fromkeys("pet mascot".split(), ANIMALS),
    **dict.fromkeys("practice appointment laundry".split(), DAYS),
    **dict.fromkeys("present purchase hobby".split(), THINGS),
    **dict.fromkeys("locker platform bus".split(), NUMBERS),
}

# label -> (ways to say it, what it is said about)
INTENTS: dict[str, tuple[list[str], list[str]]] = {
    "music": (
        ["put on some {}", "play me {}", "let us hear {}", "turn up the {}"],
        "jazz blues techno opera folk swing reggae piano".split(),
    ),
    "alarm": (
        ["wake me at {}", "set the alarm for {}", "ring the alarm at {}", "get me up by {}"],
        "six seven eight nine five dawn noon midnight".split(),
    ),
    "weather": (
        ["will it rain in {}", "is it cold in {}", "what is the forecast for {}", "any snow in {}"],
        PLACES[:10],
    ),
    "shopping": (
        ["add {} to the list", "we need more {}", "buy {} on the way", "order {} again"],
        "milk flour apples rice butter candles soap onions".split(),
    ),
    "travel": (["book a train to {}", "find a flight to {}", "how far is {}", "reserve a seat to {}"], PLACES[10:20]),
    "banking": (["transfer money to {}", "pay the bill of {}", "what do I owe {}", "send a cheque to {}"], PEOPLE[:10]),
    "cooking": (
        ["how do I cook {}", "find a recipe for {}", "how long does {} simmer", "what goes with {}"],
        FOODS[:10],
    ),
    "calls": (["call {} back", "dial {} please", "leave {} a voicemail", "ring up {} tonight"], PEOPLE[10:20]),
}

CHATTER = [
    ["the", "a", "that"],
    ["tram", "kitchen", "sky", "garden", "street", "printer", "meeting", "radio", "evening", "staircase", "market",
     "window", "queue", "lift", "heating"],
    ["late", "noisy", "quiet", "crowded", "slow", "strange", "lovely", "dull", "warm", "empty", "damp", "cheerful"],
    ["again", "today", "as always", "for once", "all morning", "this time", "somehow", "after all"],
]  # fmt: skip
