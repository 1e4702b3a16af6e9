"""The words of the functions world, and lines of text of each shape made from them."""

import random
from collections.abc import Callable

# fmt: off
FIRST_NAMES = (
    "Anna", "Ben", "Clara", "David", "Elena", "Frank", "Grace", "Henry", "Irene", "Jack", "Karen", "Leo",
    "Maria", "Nora", "Oscar", "Paula", "Quinn", "Rosa", "Sam", "Tina", "Victor", "Wendy", "Yusuf", "Zoe",
    "Omar", "Lucy", "Peter", "Julia", "Marco", "Alice",
)
LAST_NAMES = (
    "Keller", "Smith", "Novak", "Rossi", "Tanaka", "Brown", "Silva", "Khan", "Meyer", "Lopez", "Walker",
    "Young", "Olsen", "Fischer", "Garcia", "Hughes", "Ivanov", "Jensen", "Moore", "Clark", "Davis", "Evans",
    "Green", "King", "Lewis", "Price", "Stone", "Turner", "Wood", "Baker",
)
CITIES = (
    "Lisbon", "Paris", "Berlin", "Oslo", "Rome", "Madrid", "Vienna", "Dublin", "Cairo", "Tokyo", "Boston",
    "Athens", "Prague", "Delhi", "Lima", "Seoul", "London", "Chicago", "Toronto", "Sydney",
)
JOBS = (
    "nurse", "teacher", "baker", "pilot", "lawyer", "farmer", "driver", "painter", "doctor", "editor",
    "plumber", "singer", "clerk", "writer", "chef",
)
COLORS = ("red", "blue", "green", "yellow", "black", "white", "brown", "pink", "gray", "orange", "purple")
PLURALS = {
    "city": "cities", "box": "boxes", "child": "children", "dog": "dogs", "cat": "cats", "house": "houses",
    "man": "men", "woman": "women", "book": "books", "knife": "knives", "leaf": "leaves", "tooth": "teeth",
    "foot": "feet", "mouse": "mice", "baby": "babies", "bus": "buses", "dish": "dishes", "watch": "watches",
    "apple": "apples", "orange": "oranges", "table": "tables", "chair": "chairs", "tree": "trees",
    "country": "countries", "story": "stories", "glass": "glasses", "key": "keys", "toy": "toys",
    "day": "days", "lady": "ladies", "wolf": "wolves", "shelf": "shelves", "egg": "eggs", "idea": "ideas",
    "island": "islands", "hour": "hours", "uncle": "uncles", "car": "cars", "train": "trains",
    "bird": "birds", "horse": "horses", "cow": "cows", "lion": "lions", "bread": "breads", "cake": "cakes",
    "banana": "bananas", "onion": "onions", "shirt": "shirts", "hat": "hats", "coat": "coats",
    "shoe": "shoes", "fox": "foxes", "brush": "brushes", "party": "parties", "river": "rivers",
    "garden": "gardens", "office": "offices", "engine": "engines", "umbrella": "umbrellas", "ant": "ants",
}
GROUPS = {
    "animal": ("dog", "cat", "mouse", "wolf", "bird", "horse", "cow", "lion", "fox", "ant"),
    "food": ("apple", "orange", "egg", "bread", "cake", "banana", "onion"),
    "clothing": ("shirt", "hat", "coat", "shoe"),
    "person": ("child", "man", "woman", "baby", "lady", "uncle"),
    "vehicle": ("bus", "car", "train"),
    "furniture": ("table", "chair", "shelf"),
}
VERBS = {  # past, -ing
    "walk": ("walked", "walking"), "go": ("went", "going"), "eat": ("ate", "eating"),
    "write": ("wrote", "writing"), "run": ("ran", "running"), "see": ("saw", "seeing"),
    "take": ("took", "taking"), "make": ("made", "making"), "come": ("came", "coming"),
    "play": ("played", "playing"), "stop": ("stopped", "stopping"), "study": ("studied", "studying"),
    "try": ("tried", "trying"), "sing": ("sang", "singing"), "swim": ("swam", "swimming"),
    "drive": ("drove", "driving"), "buy": ("bought", "buying"), "bring": ("brought", "bringing"),
    "think": ("thought", "thinking"), "teach": ("taught", "teaching"), "read": ("read", "reading"),
    "sleep": ("slept", "sleeping"), "speak": ("spoke", "speaking"), "break": ("broke", "breaking"),
    "open": ("opened", "opening"), "close": ("closed", "closing"), "help": ("helped", "helping"),
    "work": ("worked", "working"), "call": ("called", "calling"), "plan": ("planned", "planning"),
    "carry": ("carried", "carrying"), "wash": ("washed", "washing"), "watch": ("watched", "watching"),
    "fix": ("fixed", "fixing"), "dance": ("danced", "dancing"), "cook": ("cooked", "cooking"),
    "give": ("gave", "giving"), "sit": ("sat", "sitting"), "win": ("won", "winning"),
    "lose": ("lost", "losing"), "pay": ("paid", "paying"), "send": ("sent", "sending"),
    "build": ("built", "building"), "sell": ("sold", "selling"), "find": ("found", "finding"),
    "know": ("knew", "knowing"), "grow": ("grew", "growing"), "draw": ("drew", "drawing"),
    "choose": ("chose", "choosing"), "ask": ("asked", "asking"), "jump": ("jumped", "jumping"),
    "clean": ("cleaned", "cleaning"),
}
ADJECTIVES = {  # opposite, comparative, superlative
    "big": ("small", "bigger", "biggest"), "hot": ("cold", "hotter", "hottest"),
    "fast": ("slow", "faster", "fastest"), "old": ("young", "older", "oldest"),
    "happy": ("sad", "happier", "happiest"), "tall": ("short", "taller", "tallest"),
    "light": ("heavy", "lighter", "lightest"), "rich": ("poor", "richer", "richest"),
    "early": ("late", "earlier", "earliest"), "easy": ("hard", "easier", "easiest"),
    "clean": ("dirty", "cleaner", "cleanest"), "strong": ("weak", "stronger", "strongest"),
    "wide": ("narrow", "wider", "widest"), "high": ("low", "higher", "highest"),
    "loud": ("quiet", "louder", "loudest"), "dry": ("wet", "drier", "driest"),
    "full": ("empty", "fuller", "fullest"), "thick": ("thin", "thicker", "thickest"),
    "soft": ("hard", "softer", "softest"), "deep": ("shallow", "deeper", "deepest"),
    "sweet": ("sour", "sweeter", "sweetest"), "cheap": ("expensive", "cheaper", "cheapest"),
    "small": ("big", "smaller", "smallest"), "cold": ("hot", "colder", "coldest"),
    "slow": ("fast", "slower", "slowest"), "young": ("old", "younger", "youngest"),
    "sad": ("happy", "sadder", "saddest"), "short": ("long", "shorter", "shortest"),
    "heavy": ("light", "heavier", "heaviest"), "poor": ("rich", "poorer", "poorest"),
    "late": ("early", "later", "latest"), "hard": ("soft", "harder", "hardest"),
    "dirty": ("clean", "dirtier", "dirtiest"), "weak": ("strong", "weaker", "weakest"),
    "narrow": ("wide", "narrower", "narrowest"), "low": ("high", "lower", "lowest"),
    "quiet": ("loud", "quieter", "quietest"), "wet": ("dry", "wetter", "wettest"),
    "thin": ("thick", "thinner", "thinnest"), "dark": ("bright", "darker", "darkest"),
    "bright": ("dark", "brighter", "brightest"), "long": ("short", "longer", "longest"),
    "new": ("old", "newer", "newest"), "kind": ("mean", "kinder", "kindest"),
    "safe": ("dangerous", "safer", "safest"), "near": ("far", "nearer", "nearest"),
}
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
    "November", "December",
)
_DOMAINS = ("mail.com", "work.org", "home.net", "shop.io", "acme.com", "post.de", "uni.edu", "web.fr")
_FILES = ("report", "photo", "notes", "budget", "letter", "plan", "song", "draft", "invoice", "map", "list")
EXTENSIONS = ("pdf", "txt", "jpg", "csv", "docx", "png", "mp3", "zip")
_FOLDERS = ("home", "data", "work", "docs", "music", "tmp", "photos", "backup", "old", "shared")
_PAGES = ("news", "blog", "help", "cart", "about", "login", "jobs", "team", "faq", "docs")
_HOSTS = ("acme", "bluebird", "cityzoo", "daily", "easybank", "foodie", "greenhouse", "homebase")
_ENDS = ("com", "org", "net", "io", "de", "fr")
WORDS = (
    "apple", "pear", "fig", "plum", "cherry", "grape", "lemon", "melon", "banana", "kiwi", "table", "chair",
    "lamp", "desk", "sofa", "shelf", "cup", "plate", "fork", "spoon", "knife", "dog", "cat", "horse", "mouse",
    "tiger", "rabbit", "eagle", "rose", "tulip", "oak", "pine", "car", "bus", "train", "bike", "boat",
    "bread", "cheese", "milk", "rice", "soup", "salt", "tea", "coffee", "juice", "water",
)
_PRODUCTS = ("phone", "lamp", "jacket", "printer", "kettle", "chair", "camera", "bike", "laptop", "backpack")
TOPICS: dict[str, tuple[str, ...]] = {
    "billing": (
        "I was charged twice for the {p}", "please send me the invoice for the {p}",
        "why is my bill for the {p} so high", "the refund for the {p} is still missing",
        "can I pay for the {p} in two parts",
    ),
    "delivery": (
        "the {p} has not arrived yet", "where is the parcel with my {p}",
        "the {p} was delivered to my neighbour", "when will you ship the {p}", "the courier lost my {p}",
    ),
    "defect": (
        "the {p} is broken", "my new {p} does not work", "the {p} makes a strange noise",
        "why does the {p} switch itself off", "the {p} came with a crack",
    ),
    "praise": (
        "I love the new {p}", "the {p} works perfectly", "thank you for the great {p}",
        "the best {p} that I ever had", "my family is very happy with the {p}",
    ),
}
# fmt: on


def _record(rng: random.Random) -> str:
    return "; ".join(
        (rng.choice(FIRST_NAMES), rng.choice(CITIES), rng.choice(JOBS + COLORS), str(rng.randint(2, 99)))
    )


def _fields(rng: random.Random) -> dict[str, str]:
    pool = {
        "name": rng.choice(FIRST_NAMES),
        "city": rng.choice(CITIES),
        "age": str(rng.randint(18, 80)),
        "job": rng.choice(JOBS),
        "color": rng.choice(COLORS),
    }
    keys = rng.sample(list(pool), rng.randint(3, 4))
    return {key: pool[key] for key in keys}


def _pairs(rng: random.Random) -> str:
    return ", ".join(f"{key}: {value}" for key, value in _fields(rng).items())


def _json(rng: random.Random) -> str:
    return "{" + ", ".join(f'"{k}": "{v}"' for k, v in list(_fields(rng).items())[:3]) + "}"


def _email(rng: random.Random) -> str:
    first, last = rng.choice(FIRST_NAMES).lower(), rng.choice(LAST_NAMES).lower()
    user = rng.choice((first, f"{first}.{last}", f"{first}{rng.randint(1, 99)}", last))
    return f"{user}@{rng.choice(_DOMAINS)}"


def _date(rng: random.Random) -> str:
    return f"{rng.randint(1980, 2029)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"


def _note(rng: random.Random) -> str:
    name, city, number, date = rng.choice(FIRST_NAMES), rng.choice(CITIES), rng.randint(2, 99), _date(rng)
    mail = _email(rng)
    return rng.choice(
        (
            f"{name} from {city} ordered {number} books on {date}, contact {mail}",
            f"On {date} {name} paid {number} euros in {city} ({mail})",
            f"{city}, {date}: {name} sold {number} tickets, mail {mail}",
            f"Please tell {name} ({mail}) that {number} boxes reach {city} on {date}",
        )
    )


def _words(rng: random.Random) -> str:
    return ", ".join(rng.sample(WORDS, rng.randint(3, 5)))


def _numbers(rng: random.Random) -> str:
    return ", ".join(str(n) for n in rng.sample(range(1, 100), rng.randint(3, 5)))


def _url(rng: random.Random) -> str:
    host = f"{rng.choice(('www.', ''))}{rng.choice(_HOSTS)}.{rng.choice(_ENDS)}"
    return f"{rng.choice(('http', 'https'))}://{host}/" + "/".join(rng.sample(_PAGES, rng.randint(1, 2)))


def _path(rng: random.Random) -> str:
    folders = "/".join(rng.sample(_FOLDERS, rng.randint(1, 3)))
    return f"/{folders}/{rng.choice(_FILES)}.{rng.choice(EXTENSIONS)}"


def _message(rng: random.Random) -> str:
    text = rng.choice(rng.choice(list(TOPICS.values()))).format(p=rng.choice(_PRODUCTS))
    asks = text.split()[0] in ("why", "where", "when", "can")
    hello = rng.choice(("", "", "hello, ", "hi, ", "urgent: "))
    return hello + text + ("?" if asks else rng.choice((".", "!")))


def _messy(rng: random.Random) -> str:
    words = [rng.choice((word, word.upper(), word.title())) for word in rng.sample(WORDS, rng.randint(2, 4))]
    return "".join(word + " " * rng.randint(1, 3) for word in words).strip()


def _plain(rng: random.Random) -> str:
    return " ".join(rng.sample(WORDS, rng.randint(1, 3)))


def _phrase(rng: random.Random) -> str:
    return rng.choice((SHAPES["name"], SHAPES["name"], _words, _message, _plain))(rng)


def _order(rng: random.Random) -> str:
    order = rng.choice(ORDERS)
    return order.format(w=rng.choice(rng.choice((DRINKS, CITIES[:8], COLORS[:8]))))


SHAPES: dict[str, Callable[[random.Random], str]] = {
    "record": _record,
    "pairs": _pairs,
    "json": _json,
    "note": _note,
    "date": _date,
    "name": lambda rng: f"{rng.choice(FIRST_NAMES)} {rng.choice(LAST_NAMES)}",
    "words": _words,
    "doubled": lambda rng: ", ".join(rng.choices(rng.sample(WORDS, 3), k=rng.randint(4, 5))),
    "numbers": _numbers,
    "noun": lambda rng: rng.choice(list(PLURALS)),
    "verb": lambda rng: rng.choice(list(VERBS)),
    "adjective": lambda rng: rng.choice(list(ADJECTIVES)),
    "email": _email,
    "url": _url,
    "path": _path,
    "time": lambda rng: f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}",
    "price": lambda rng: f"${rng.randint(1, 99)}.{rng.choice((0, 25, 50, 75, 99, 90, 10)):02}",
    "phone": lambda rng: f"{rng.randint(201, 989)}-{rng.randint(200, 999)}-{rng.randint(1000, 9999)}",
    "message": _message,
    "messy": _messy,
    "two": lambda rng: " and ".join(str(n) for n in rng.sample(range(1, 100), 2)),
    "order": _order,
    "any": _phrase,
}
"""A maker of lines for every shape of input."""

DRINKS = ("tea", "coffee", "juice", "water", "milk", "soup", "cake", "rice")
ORDERS = (
    "{w}",
    "{w} please",
    "I choose {w}",
    "one {w}",
    "{w} for Anna",
    "give me {w}",
    "it is {w}",
    "{w} again",
)

SHAPE_NAMES = {
    "record": "a record", "pairs": "key-value pairs", "json": "a JSON object", "note": "a note",
    "date": "a date", "name": "a name", "words": "a list of words", "doubled": "a list of words",
    "numbers": "a list of numbers", "noun": "a noun", "verb": "a verb", "adjective": "an adjective",
    "email": "an email address", "url": "a link", "path": "a file path", "time": "a time", "price": "a price",
    "phone": "a phone number", "message": "a customer message", "messy": "an untidy text",
    "two": "two numbers", "order": "an order", "any": "some text",
}  # fmt: skip
"""How people name each shape."""
