"""The one error that configuration, directives and controls raise."""

from __future__ import annotations


class ConfigError(ValueError):
    """The caller's setting, directive or control body is wrong; the text names the field and the reason."""
