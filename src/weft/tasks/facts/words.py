"""The vocabulary of the documents: who has what, and sentences that say nothing."""

_NAMES = """
ada bela cleo dora emil fritz gwen hugo ines jorn kira lena milo nora otto pia quinn rosa sven tara ugo
vera wim xena yara zeno abel bruno carla dirk elsa finn
"""
_THINGS = """
amber basalt copper diamond emerald flint garnet halite iron jade kaolin lapis marble nickel opal pearl
quartz ruby silver topaz umber velvet walnut yarn zinc apple barley cherry dates elder fig grape
"""
_SUBJECTS = "wind river forest mountain road harbour winter evening village market meadow bridge"
_VERBS = "crossed followed covered reached left remembered passed watched"
_ADJECTIVES = "old quiet long grey wide cold distant small"

NAMES = _NAMES.split()
"""32 names, which facts are about."""
THINGS = _THINGS.split()
"""32 things that names have."""
SUBJECTS, VERBS, ADJECTIVES = _SUBJECTS.split(), _VERBS.split(), _ADJECTIVES.split()
"""Of idle sentences."""
