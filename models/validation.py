"""What pydantic found wrong, on one line and without the values: those may be a patient's."""

from pydantic import ValidationError

_MOST = 5


def told(error: ValidationError | Exception) -> str:
    """`field: problem; field: problem`; of another exception its own text, on one line."""
    if not isinstance(error, ValidationError):
        return " ".join(str(error).split())
    found = error.errors(include_url=False, include_context=False, include_input=False)
    lines = [f"{'.'.join(map(str, one['loc']))}: {_said(one['msg'])}".removeprefix(": ") for one in found[:_MOST]]
    if more := len(found) - len(lines):
        lines.append(f"and {more} more")
    return "; ".join(lines)


def _said(message: str) -> str:
    return " ".join(message.removeprefix("Value error, ").split())
