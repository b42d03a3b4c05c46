"""What a run of the machine met: states, transitions, reasons to ignore. The generator is tested too."""

from collections import Counter
from typing import Any

from schemas.base import Message
from streams.fold.step import Step


class Coverage:
    def __init__(self) -> None:
        self.states: Counter[str] = Counter()
        self.transitions: Counter[str] = Counter()
        self.ignored: Counter[str] = Counter()
        self.outputs: Counter[str] = Counter()

    def record(self, log: str, before: Any, event: Message, done: Step[Any]) -> None:
        fact = type(event).__name__
        self.states[f"{log}: {done.state.kind}"] += 1
        if done.ignored is not None:
            self.ignored[f"{log}: {done.ignored.value} {fact} while {before.kind}"] += 1
            return
        self.transitions[f"{log}: {before.kind} -> {done.state.kind} by {fact}"] += 1
        for output in done.outputs:
            self.outputs[f"{log}: {before.kind}, {fact}: {type(output).__name__}"] += 1

    def met(self) -> dict[str, int]:
        return dict(sorted((self.states + self.transitions + self.ignored + self.outputs).items()))
