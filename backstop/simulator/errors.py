"""The error of configuration, directives and controls."""

from __future__ import annotations


class ConfigError(ValueError):
    """The caller's setting, directive or control body is wrong; the text names the field and the reason."""
