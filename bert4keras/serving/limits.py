"""The limits of a server, and what follows from them."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Limits:
    """How much, how many and how long; the names are those of the arguments of `WebServing`.

    Raises:
        ValueError: a limit that lets nothing through.
    """

    max_body: int = 1 << 20
    max_text: int = 10_000
    max_values: int = 20_000
    max_waiting: int = 1000
    max_connections: int = 1000
    read_timeout: float = 30.0
    write_timeout: float = 30.0
    idle_timeout: float = 5.0
    call_timeout: float = 300.0
    stop_timeout: float = 30.0

    def __post_init__(self) -> None:
        if useless := {name: value for name, value in asdict(self).items() if not value > 0}:
            raise ValueError(f"WebServing: {useless} would let nothing through, give more than 0")

    @property
    def connections(self) -> int:
        """Connections at most: as many as were asked for, if the system lets us open them."""
        try:
            import resource
        except ImportError:  # Windows, where nothing but memory bounds them
            return self.max_connections
        open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if open_files == resource.RLIM_INFINITY:
            return self.max_connections
        # The rest is for whatever else the process has open, and for connections that are refused.
        return max(1, min(self.max_connections, open_files * 3 // 4))

    @property
    def request(self) -> int:
        """Bytes of a request at most: of an address and headers, or of a body."""
        return self.max_body + (1 << 16)

    @property
    def parts(self) -> int:
        """Parts of a body at most: small chunks take time beyond that for their bytes."""
        return 2000 + self.max_body // 1000

    @property
    def memory(self) -> int:
        """Bytes of all requests that are not answered and all answers that are not read."""
        return max(1 << 26, 8 * self.max_body)

    @property
    def tick(self) -> float:
        """How often, in seconds, is looked for what takes too long."""
        shortest = min(self.read_timeout, self.write_timeout, self.idle_timeout, self.call_timeout)
        return min(1.0, shortest / 4)
