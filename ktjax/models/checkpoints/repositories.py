"""Names of repositories on the Hugging Face hub, as users write them."""

_STARTS = ("hf://", "hf:", "hf-hub:", "hf_hub:")


def of(name: str) -> str | None:
    """The repository on the hub that a name stands for; None: it stands for something else.

    It may end in `@` and a revision.
    """
    for start in _STARTS:
        if name.startswith(start):
            return name.removeprefix(start)
    if name.startswith("timm/"):
        return name.removeprefix("timm/") if name.count("/") == 2 else name
    return None


def split(repository: str) -> tuple[str, str | None]:
    """OWNER/NAME and the revision; None: the newest."""
    plain, _, revision = repository.partition("@")
    return plain, revision or None
