"""Names of repositories on the Hugging Face hub, as users write them."""

import re

_STARTS = ("hf://", "hf:", "hf-hub:", "hf_hub:")
_PAGE = "https://huggingface.co/"
_BARE = re.compile(r"(?!glyphs/)\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?")


def of(name: str) -> str | None:
    """The repository on the hub that a name stands for; None: it stands for something else.

    It may end in `@` and a revision. The address of its page is a name, too.
    """
    for start in _STARTS:
        if name.startswith(start):
            return name.removeprefix(start)
    if name.startswith(_PAGE):
        return name.removeprefix(_PAGE).rstrip("/").replace("/tree/", "@")
    if name.startswith("timm/"):
        return name.removeprefix("timm/") if name.count("/") == 2 else name
    return None


def split(repository: str) -> tuple[str, str | None]:
    """OWNER/NAME and the revision; None: the newest."""
    plain, _, revision = repository.partition("@")
    return plain, revision or None


def hint(name: str) -> str:
    """A sentence on what a name that is no model is called if it is OWNER/NAME; else nothing."""
    return f" A model of the hub is called 'hf:{name}'." if _BARE.fullmatch(name) else ""
