"""The limits of a server, and values derived from them."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of sizes, counts and times, with the names of the arguments of `WebServing`.

    Raises:
        ValueError: a limit is not positive.
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
            raise ValueError(f"WebServing: {useless} would allow no requests: give more than 0")

    @property
    def connections(self) -> int:
        """Maximum number of connections, as given, if the system allows as many open files."""
        try:
            import resource
        except ImportError:  # Windows, where only memory limits them
            return self.max_connections
        open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if open_files == resource.RLIM_INFINITY:
            return self.max_connections
        # The rest is for other files of the process, and for connections that are refused.
        return max(1, min(self.max_connections, open_files * 3 // 4))

    @property
    def request(self) -> int:
        """Maximum number of bytes of a request: of an address and headers, or of a body."""
        return self.max_body + (1 << 16)

    @property
    def chunks(self) -> int:
        """Maximum number of chunks of a body, since each one takes time apart from its size."""
        return 2000 + self.max_body // 1000

    @property
    def memory(self) -> int:
        """Maximum number of bytes of all unanswered requests and unread answers."""
        return max(1 << 26, 8 * self.max_body)

    @property
    def tick(self) -> float:
        """Seconds between checks of the timeouts."""
        shortest = min(self.read_timeout, self.write_timeout, self.idle_timeout, self.call_timeout)
        return min(1.0, shortest / 4)
