"""A disk that is full, as the kernel says it."""

import resource
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def no_room() -> Generator[None]:
    """Files can be made and nothing written into them, by this process."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
