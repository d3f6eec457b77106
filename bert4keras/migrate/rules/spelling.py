"""How the tables are written."""

K = "bert4keras.backend.K"


def spelled_out(module: str, names: str) -> dict[str, str]:
    """Full names by their last part, of words in one text."""
    return {name: f"{module}.{name}".strip(".") for name in names.split()}
