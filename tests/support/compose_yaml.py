"""Reads the YAML that our compose file is written in, and no other: there is no YAML package among our dependencies.

Block mappings and lists, flow lists of quoted strings, anchors, aliases and merges. Anything else raises ValueError, so
that the file cannot drift into what is not read here; Docker Compose itself is asked where it is installed.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Any

LINE = re.compile(
    r"(?P<indent> *)(?:(?P<item>- )|(?P<key>[\w.<-]+):)(?: (?=.)|$)?(?:&(?P<anchor>[\w-]+))?\s*(?P<value>.*)"
)


@dataclass
class Reader:
    lines: list[str]
    anchors: dict[str, Any] = field(default_factory=dict)
    at: int = 0

    def block(self, indent: int) -> Any:
        """The mapping or list whose lines start at `indent`."""
        mapping: dict[str, Any] = {}
        listed: list[Any] = []
        while self.at < len(self.lines):
            match = LINE.fullmatch(self.lines[self.at])
            if match is None:
                raise ValueError(f"not in the subset: {self.lines[self.at]!r}")
            if len(match["indent"]) < indent:
                break
            if len(match["indent"]) > indent:
                raise ValueError(f"indented too far: {self.lines[self.at]!r}")
            self.at += 1
            if match["item"]:
                listed.append(self.scalar(match["value"]))
                continue
            value = self.scalar(match["value"]) if match["value"] else self.below(indent)
            if match["anchor"]:
                self.anchors[match["anchor"]] = value
            if match["key"] == "<<":
                mapping = {**value, **mapping}
            else:
                mapping[match["key"]] = value
        return listed or mapping

    def below(self, indent: int) -> Any:
        if self.at == len(self.lines):
            return None
        next_indent = len(self.lines[self.at]) - len(self.lines[self.at].lstrip(" "))
        return self.block(next_indent) if next_indent > indent else None

    def scalar(self, text: str) -> Any:
        if text.startswith("*"):
            return self.anchors[text[1:]]
        if text.startswith(("[", '"')):
            return json.loads(text)
        if text in {"true", "false"}:
            return text == "true"
        if re.fullmatch(r"[\w./:@-]+", text):
            return int(text) if text.isdigit() else text
        raise ValueError(f"not in the subset: {text!r}")


def load(text: str) -> dict[str, Any]:
    """The document; ValueError at what is not in the subset."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return Reader(lines).block(0)
