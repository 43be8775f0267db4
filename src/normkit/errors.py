"""What normkit raises.

Every error is a :class:`NormkitError` and also the built-in class that users of torch already catch for the
same mistake, so that an ``except ValueError`` or ``except RuntimeError`` written for ``torch.nn`` still works.
"""


class NormkitError(Exception):
    """Base of every error that normkit raises on purpose."""


class ArgumentError(NormkitError, ValueError):
    """An argument has a value outside what the call accepts (a negative eps, groups that do not divide)."""


class ShapeError(NormkitError, ValueError, RuntimeError):
    """A tensor has the wrong rank or sizes. torch raises ValueError for some of these, RuntimeError for others."""


class DtypeError(NormkitError, TypeError, RuntimeError):
    """A tensor has a dtype that the call cannot normalize (integers, complex numbers)."""


class DeviceError(NormkitError, RuntimeError):
    """Tensors of one call lie on different devices, or on one that the call cannot use."""


class MissingExtraError(NormkitError, ImportError):
    """A part of normkit needs a package that is not installed; the message names the extra to install."""


class StoreError(NormkitError, RuntimeError):
    """A file of runs cannot be read or written: not a store, damaged, newer than this version, a full disk."""


class EngineError(NormkitError, RuntimeError):
    """The processes or the cluster that runs are computed on cannot be started or reached."""


class TaskError(NormkitError, RuntimeError):
    """A task file of the user cannot be read, fails, or defines no task; the message says where in it."""
