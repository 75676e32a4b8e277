"""Every exception that the library raises on purpose.

Each message is one sentence or two: what came, what is needed and why, what would work. The command line
prints it without a traceback and exits with status 1.
"""


class JaxgeoError(Exception):
    """Base of all deliberate errors; catch it to catch them all."""


class InputError(JaxgeoError, ValueError):
    """An array that the function cannot take: wrong shape or order, not finite, labels out of range."""


class ConfigError(JaxgeoError, ValueError):
    """A configuration that is impossible, has an unknown key or a value of a wrong type."""


class RunFolderError(JaxgeoError, OSError):
    """A folder that is not a run, belongs to another version, or cannot be written."""


class CorruptFileError(JaxgeoError, OSError):
    """A file that is truncated, altered or not of the format that its name promises."""


class ExportError(JaxgeoError):
    """A model that cannot be carried to hardware: names the operation and the model's file and line."""


class ToolMissingError(JaxgeoError):
    """A program or an optional package that this step needs is not installed."""
