"""`weft push`: an adapter to the Hub."""

from typing import Annotated

from cyclopts import Parameter

from weft.cli.shared.flags import Flag, Json
from weft.cli.shared.screen import print_json, print_pairs


def push(
    adapter: str,
    repository: str,
    /,
    *,
    private: Flag = False,
    message: Annotated[str | None, Parameter(alias="-m")] = None,
    json: Json = False,
) -> None:
    """Upload an adapter to the Hugging Face Hub, where PEFT and vLLM find it.

    Log in first: "hf auth login", or the token in HF_TOKEN. Config, weights and card are sent
    as they are. Its id then works wherever a folder does. For example:

        weft push out/ my-name/reverse --private
        weft generate "cab" --adapter my-name/reverse

    Args:
        adapter: Adapter folder.
        repository: Id of the repository, OWNER/NAME; it is made where it is not there.
        private: Make it a private one; a repository that is there stays what it is.
        message: Message of the commit.
    """
    from weft.adapters import push as upload

    address = upload(adapter, repository, private=private, message=message)
    facts = {"path": adapter, "repository": repository, "address": address}
    print_json(facts) if json else print_pairs(facts)
