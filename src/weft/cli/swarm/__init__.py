"""`weft swarm`: the layers of one base over several workers."""

from cyclopts import App

swarm = App(
    name="swarm",
    help="""Run one base over several workers, which may die.

Each worker holds some of the layers. A worker that dies or hangs costs
seconds and not a token: a spare one takes its place. For example:

    weft swarm up --base weft/smollm2 --workers 3 --name S
    weft generate "What is wool?" --host swarm:S
    weft swarm kill --name S --worker 1
    weft swarm status --name S
    weft swarm down --name S
""",
)

# Imported when they are called, as the verbs are.
for _verb in ("up", "status", "kill", "down"):
    swarm.command(f"weft.cli.swarm.{_verb}:{_verb}", name=_verb)
