"""The notation of the tables."""

K = "bert4keras.backend.K"


def spelled_out(module: str, names: str) -> dict[str, str]:
    """Return full names by their last part, from words in a string."""
    return {name: f"{module}.{name}".strip(".") for name in names.split()}
