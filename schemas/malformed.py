"""The one exception for input that breaks a contract."""

from typing import Final

_SHOWN: Final = 80


class Malformed(ValueError):
    """Input that breaks a rule of its schema.

    Attributes:
        field: what was wrong, e.g. ``user_id``.
        value: the offending value, shortened for printing.
        rule: what would have been right.
    """

    def __init__(self, field: str, value: object, rule: str) -> None:
        try:
            shown = repr(value[: 2 * _SHOWN] if isinstance(value, str | bytes | list | tuple) else value)
        except RecursionError:  # msgpack decodes deeper nesting than repr can print
            shown = f"a deeply nested {type(value).__name__}"
        self.field = field
        self.value = shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "…"
        self.rule = rule
        super().__init__(f"{field}: {rule}, got {self.value}")
