"""Faults, and what came of each: refused with a sentence; survived, where what was read is what was written; or wrong."""

import collections
import faulthandler
import random
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["Count", "damaged"]

# A hang ends the script with a traceback.
SECONDS = 120


def damaged(whole: bytes, moments: random.Random, number: int) -> Iterator[tuple[str, bytes]]:
    """Ways in which the bytes of a file can be others; a third of the flips is in the first 4 KiB."""
    for count in range(number):
        place = moments.randrange(min(4096, len(whole)) if count % 3 == 0 else len(whole))
        yield "byte flipped", whole[:place] + bytes([whole[place] ^ (1 << moments.randrange(8))]) + whole[place + 1 :]
    for _ in range(number // 4):
        yield "truncated", whole[: moments.randrange(len(whole))]
        start, size = moments.randrange(len(whole)), moments.choice([1, 64, 4096])
        yield "block of zeros", whole[:start] + bytes(len(whole[start : start + size])) + whole[start + size :]
        yield "block lost", whole[:start] + whole[start + size :]
        yield "bytes added", whole + moments.randbytes(size)


class Count:
    """What came of each kind of fault."""

    def __init__(self) -> None:
        self.outcomes: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self.wrong: list[str] = []

    def attempt(self, fault: str, name: str, read: Callable[[], object], is_as_written: bool) -> None:
        """Read something broken. An error is a refusal if it is a sentence that names the file."""
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        try:
            read()
            outcome = "survived" if is_as_written else "wrong"
        except (OSError, ValueError) as error:
            outcome = "refused" if Path(name).name in str(error) and ": " in str(error) else "wrong"
            message = str(error)
        except Exception as error:  # no sentence
            outcome, message = "wrong", f"{type(error).__name__}: {error}"
        else:
            message = "was believed"
        faulthandler.cancel_dump_traceback_later()
        self.outcomes[fault][outcome] += 1
        if outcome == "wrong":
            self.wrong.append(f"{fault}, {name}: {message}")

    @property
    def tried(self) -> int:
        return sum(sum(outcomes.values()) for outcomes in self.outcomes.values())

    def lines(self) -> Iterator[str]:
        yield "| fault | tried | survived | refused with a sentence | wrong |"
        yield "|---|---:|---:|---:|---:|"
        total: collections.Counter[str] = sum(self.outcomes.values(), collections.Counter())
        for fault, outcomes in [*self.outcomes.items(), ("all", total)]:
            numbers = " | ".join(str(outcomes[name]) for name in ("survived", "refused", "wrong"))
            yield f"| {fault} | {sum(outcomes.values())} | {numbers} |"
