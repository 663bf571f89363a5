"""Whether the fields of a settings object are of the kind that they must be, said by name."""

from __future__ import annotations

from p2p.errors import ConfigError

Kinds = tuple[tuple[str, tuple[type, ...], str], ...]
"""Names of fields with a space between them, what they may be, and how that is said."""


def check_kinds(settings: object, kinds: Kinds) -> None:
    """Refuse what is of another kind, before something deep inside trips over it. True and False are no numbers.

    Raises:
        ConfigError: a field is; it names the field and not the value, for that may be a secret.
    """
    for names, allowed, what in kinds:
        for name in names.split():
            value: object = getattr(settings, name)
            if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
                raise ConfigError(f"{name} is of the kind {type(value).__name__}: it must be {what}")
