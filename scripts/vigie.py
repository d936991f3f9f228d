"""The `vigie` command. Each group of commands is in a file of its own and loads what it needs when it is called."""

import sys

import typer
from pydantic import ValidationError

from models.children import keep_quiet
from models.errors import ConfigurationError, NotAllowed, NotFound, VigieError
from models.validation import told
from scripts import (
    coordinator_commands,
    reader_commands,
    result_commands,
    retrain_commands,
    site_commands,
    site_privacy_commands,
    version_commands,
)
from scripts.demonstration import command as demonstration

EXIT_CODES: dict[str, int] = {
    ConfigurationError.code: 2,
    NotFound.code: 3,
    NotAllowed.code: 4,
}
"""From an error's code to the exit status; every other VigieError is 1."""

app = typer.Typer(
    name="vigie",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="On-premise imaging AI that hospitals watch, correct and retrain together. Example: vigie demo",
)
site_commands.app.command("reader")(reader_commands.reader)
site_commands.app.command("readers")(reader_commands.readers)
site_commands.app.command("results")(result_commands.results)
site_commands.app.command("privacy")(site_privacy_commands.privacy)
app.add_typer(site_commands.app, name="site")
app.add_typer(coordinator_commands.app, name="coordinator")
app.add_typer(retrain_commands.app, name="retrain")
app.add_typer(version_commands.app, name="version")
app.command("evaluate")(version_commands.evaluate)
app.command("demo")(demonstration.demo)


def main() -> None:
    """Run the command; an expected error is one line on stderr and an exit status, never a traceback."""
    keep_quiet()
    try:
        app()
    except ValidationError as error:  # settings that no schema has looked at before
        print(f"vigie: {ConfigurationError.code}: {told(error)}", file=sys.stderr)
        sys.exit(EXIT_CODES[ConfigurationError.code])
    except VigieError as error:
        print(f"vigie: {error.code}: {error}", file=sys.stderr)
        sys.exit(EXIT_CODES.get(error.code, 1))
    except OSError as error:  # a full disk, a folder that may not be written, a name that is something else's
        if error.strerror is None:
            raise
        print(f"vigie: system: {': '.join(filter(None, (str(error.filename or ''), error.strerror)))}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
