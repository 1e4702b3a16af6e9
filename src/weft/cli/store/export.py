"""`weft store export`: an adapter for the hub, or for a registry."""

from pathlib import Path

from weft.cli.shared.flags import Json
from weft.cli.store import Out, Place, Revision, say
from weft.errors import ConfigError
from weft.store import Store


def export(
    name: str,
    /,
    *,
    out: Out | None = None,
    oci: str | None = None,
    rev: Revision = "HEAD",
    store: Place = ".",
    json: Json = False,
) -> None:
    """Write an adapter as a folder for the hub, with a model card where it has none.

    With --oci, write an OCI image layout, for any container registry. For
    example:

        weft store export reverse --oci layout
        oras cp --from-oci-layout layout:reverse registry.example.org/reverse:v1

    Args:
        name: The adapter.
        out: The folder for the hub; a former adapter there is replaced.
        oci: The folder for the layout; a former layout there is replaced.
    """
    if (out is None) == (oci is None):
        raise ConfigError("say where to: --output FOLDER for the hub, or --oci FOLDER for a registry")
    if oci is not None:
        with Store(store) as opened:
            digest = opened.export_oci(name, oci, rev=rev)
        facts = {"name": name, "oci": str(Path(oci).absolute()), "digest": digest}
        say(facts, f"wrote {oci}, {digest}", json)
        return
    assert out is not None
    with Store(store) as opened:
        card = opened.export(name, out, rev=rev)
    facts = {"name": name, "out": str(Path(out).absolute()), "wrote_card": card}
    say(facts, f"wrote {out}" + (" and a model card for it" if card else ""), json)
