"""Every exception the harness raises on purpose, as one tree.

HarnessError                      exit code 1
|-- BadInput                      exit code 2: the field, its value, what is accepted, the fix
|   `-- StoreRefused              a results folder that must not be written to (or read) as it is
|-- MeasurementError              a counter that cannot be believed; the run becomes invalid
|   |-- CounterWentBack           a decrease that no wrap explains (driver reload)
|   |-- CounterLost               a counter that stopped answering
|   |-- WindowTooShort            not enough counter updates around the window
|   `-- ClocksApart               two machines' times cannot be told from one another well enough
|-- EngineError                   the run becomes failed, with the log's tail
|   |-- EngineUnavailable         no such engine here
|   |-- LaunchFailed              it did not become ready
|   |   |-- WeightsUnavailable    gated without a token, or not there
|   |   |-- DiskTooSmall
|   |   |-- WeightsOutOfMemory    the weights do not fit the GPU
|   |   |-- KvCacheOutOfMemory    what they leave holds no sequence of the asked context
|   |   |-- PortTaken
|   |   `-- VersionUnsupported
|   |-- EngineCrashed
|   |-- EngineHung
|   `-- WrongTokenCount
|-- TrainerMissing                exit code 2: training and prediction need an extra that is not installed
|-- AgentLost                     a node stopped answering; what it was to measure goes back into the queue
|-- ClusterError                  nodes cannot be reached or started
|-- StoreError                    reading or writing results failed
|   |-- StoreFull
|   `-- UnreadableFile
`-- Interrupted                   exit code 130
"""


class HarnessError(Exception):
    """Root of the tree. `exit_code` is what the command line ends with."""

    exit_code = 1


class BadInput(HarnessError):
    """Something a person wrote cannot be used.

    The message is one line: where, the value, what is accepted, and what to do.
    """

    exit_code = 2

    def __init__(self, field: str, value: object, accepted: str, fix: str = "") -> None:
        self.field, self.value, self.accepted, self.fix = field, value, accepted, fix
        super().__init__(field, value, accepted, fix)

    def __str__(self) -> str:
        shown = repr(self.value)
        if len(shown) > 120:
            shown = shown[:117] + "..."
        line = f"{self.field}: {shown}; accepted: {self.accepted}"
        if self.fix:
            line += f"; fix: {self.fix}"
        return " ".join(line.split())


class StoreRefused(BadInput):
    """A results folder that is not writable, too new, of another source, or in use."""


class MeasurementError(HarnessError):
    """A counter's readings do not give an energy that can be believed."""


class CounterWentBack(MeasurementError):
    """A cumulative counter decreased and no wrap explains it."""


class CounterLost(MeasurementError):
    """A counter stopped answering within the window."""


class WindowTooShort(MeasurementError):
    """Too few counter updates around the window to place its ends."""


class ClocksApart(MeasurementError):
    """How another machine's clock differs from ours is not known well enough, or changes."""


class EngineError(HarnessError):
    """A serving engine did not do what was asked of it.

    Args:
        message: one line.
        log_tail: the last lines of the engine's log, if any.
        log_path: where the whole log lies, if anywhere.
        partial: a `harness.engines.base.Served` of what was served until then, or None.
    """

    def __init__(self, message: str, log_tail: str = "", log_path: str = "", partial: object = None) -> None:
        self.log_tail, self.log_path, self.partial = log_tail, log_path, partial
        super().__init__(message)


class EngineUnavailable(EngineError):
    """The engine is not installed, or not one that this version can launch."""


class LaunchFailed(EngineError):
    """The engine did not become ready."""


class WeightsUnavailable(LaunchFailed):
    """The weights are gated and no token was given, or they are not where they should be."""


class DiskTooSmall(LaunchFailed):
    """No space left for weights, caches or logs."""


class WeightsOutOfMemory(LaunchFailed):
    """The weights do not fit into the GPU's memory."""


class KvCacheOutOfMemory(LaunchFailed):
    """What the weights leave of the memory does not hold one sequence of the asked context."""


class PortTaken(LaunchFailed):
    """Another process listens where the engine was to."""


class VersionUnsupported(LaunchFailed):
    """The engine does not know an argument, or lacks a way in, that the harness needs."""


class EngineCrashed(EngineError):
    """The engine ended while it was being used."""


class EngineHung(EngineError):
    """The engine did not answer within its limit."""


class WrongTokenCount(EngineError):
    """The engine generated another number of tokens than it was asked for."""


class TrainerMissing(HarnessError):
    """No trainer of predictors is installed, or not all that it needs."""

    exit_code = 2


class AgentLost(HarnessError):
    """A node, or what measures on it, no longer answers.

    Args:
        message: which one, and how that was noticed.
        in_hand: the `harness.plan.Assignment` that it was measuring, or None where it measured nothing.
        node: name of the node, where several measured together and this one was lost.
    """

    def __init__(self, message: str, in_hand: object = None, node: str = "") -> None:
        self.in_hand, self.node = in_hand, node
        super().__init__(message, in_hand, node)

    def __str__(self) -> str:
        return str(self.args[0])


class ClusterError(HarnessError):
    """The nodes of a cluster cannot be reached, or started."""


class StoreError(HarnessError):
    """Reading or writing results failed."""


class StoreFull(StoreError):
    """No space left for results; what was written before is intact."""


class UnreadableFile(StoreError):
    """A file in a results folder is truncated, corrupt, or not one of ours."""


class Interrupted(HarnessError):
    """A person or the system asked to stop; running the command again resumes.

    Args:
        message: who asked.
        partial: a `harness.engines.base.Served` of a replay cut short, or None.
    """

    exit_code = 130

    def __init__(self, message: str = "", partial: object = None) -> None:
        self.partial = partial
        super().__init__(message)
