"""Print docs/errors.md, the published table of error codes, made from the classes of nexus_control/errors.py.

`make docs` writes the file; a test compares it with what this prints.
"""

from nexus_control import errors

_HEADER = """\
# Error codes

Everything that the engine raises on purpose is a `NexusError` with a stable `code`; the text beside it is for people and may change
between releases. `nexus_control.tool` turns these errors, and no others, into results: `ToolResult.code` is the code, and the error
text starts with it, except for `POLICY_VALIDATION_FAILED`, whose text starts with the sentence. The library, the command line
and the MCP server use the same codes. A class is caught by the name of any class in its "also caught as" column.

This file is generated from `nexus_control/errors.py` by `make docs`.

| Code | Class | Meaning | Also caught as |
|---|---|---|---|
"""


def table() -> str:
    """The whole document, one row per class in the order of errors.py."""
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.NexusError)]
    return _HEADER + "".join(_row(cls) for cls in classes)


def _row(cls: type[errors.NexusError]) -> str:
    # A class without a code of its own takes it from each instance: a failed run carries the code of its router.
    code = f"`{cls.code}`" if "code" in vars(cls) else "that of the failure"
    meaning = (cls.__doc__ or "").partition("\n")[0].replace("|", "\\|")
    bases = [f"`{base.__name__}`" for base in cls.__mro__[1:] if base not in (Exception, BaseException, object)]
    return f"| {code} | `{cls.__name__}` | {meaning} | {', '.join(bases) or '-'} |\n"


if __name__ == "__main__":
    print(table(), end="")
