"""Lists in the values of flags."""

from __future__ import annotations

ALL_STUDENTS = "*"


def split_names(text: str | None) -> list[str]:
    """Comma-separated names; quotes around the whole text do not count."""
    return [name for part in (text or "").strip("\"'").split(",") if (name := part.strip())]


def student_indices(text: str | None, num_students: int, flag: str = "--test_agent_idxs") -> list[int]:
    """Comma-separated indices of students; ``*`` or nothing: all. Raises ValueError, which names ``flag``, if one does
    not exist or is named twice.
    """
    names = split_names(text)
    if names in ([], [ALL_STUDENTS]):
        return list(range(num_students))
    unknown = [name for name in names if not name.isdecimal() or int(name) >= num_students]
    if unknown:
        raise ValueError(f"no student {', '.join(unknown)}: {flag} takes * or numbers from 0 to {num_students - 1}")
    indices = [int(name) for name in names]
    if len(set(indices)) < len(indices):
        raise ValueError(f"{flag}={text} names a student twice")
    return indices
