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


class SingleValueError(ShapeError):
    """A mean and variance would be taken of a single value, and the output would not depend on the input."""


class StatisticsError(NormkitError, RuntimeError):
    """Statistics cannot be computed: of NaN or infinity where none may enter, or of too few values."""


class RankError(NormkitError, RuntimeError):
    """Another process of the group does not take part, is elsewhere, or has failed; the message names it."""


class DtypeError(NormkitError, TypeError, NotImplementedError):
    """An argument has another type than the call takes: integers, complex numbers, a list, a string for eps.

    For these torch raises TypeError, RuntimeError or NotImplementedError, which is a RuntimeError.
    """


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


class BenchError(NormkitError, RuntimeError):
    """A benchmark cannot be run or stored as asked: a busy machine, a file that is not a record."""
