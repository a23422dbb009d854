"""Every error that the project raises on purpose.

    TrsError                       shown as one line; the exit code is `exit_code`
    ├── UsageError                 a wrong argument or setting: correct it and call again
    │   └── SettingsError          names the environment variable
    ├── SourceError                the source cannot be read as declared (file, table, column, privilege)
    │   └── CdcOpenError           a source without binlog position was offered after change data capture began
    ├── UnavailableError           an outside system does not answer: start it or wait, then call again
    ├── AccessDeniedError          an outside system refuses our credentials
    ├── RetryableError             a passing fault (a busy table, a time-out before anything was sent)
    │   └── MovedError             another writer was active while buckets were opened: read again, open again
    ├── StateUnknownError          a commit's outcome cannot be told: drop the state and reload from the lake
    ├── FencedError                another worker owns the bucket now: drop its state, never write it again
    ├── OffsetGapError             Kafka no longer holds what the lake needs next: a person decides (R9)
    ├── DeadLetterStopError        a record was refused for a reason of TRS_DEAD_LETTER_STOP: a person decides
    ├── FullDiskError              no space left where state or files go
    ├── DamagedLakeError           `trs lake verify` found a promise of the lake broken
    ├── UnsettledLakeError         `trs lake verify` could not make every check: something is still to be derived
    ├── DifferencesError           `trs reconcile` found rows in which source and lake differ
    ├── QualityError               `trs lake check`: a declared check of the data failed
    ├── ConnectError               Kafka Connect, or the connector in it, refuses or failed: its own reason is shown
    └── InvariantError             the program is wrong: stop loudly and report it

Messages name the setting, table, file or topic-partition-offset concerned, and never a secret or personal data.
A bad record is not an exception: it is a row of the dead letters, unless the policy says to stop at its reason.
"""


class TrsError(Exception):
    """Any other error on purpose.

    `hint` says what to do next, in one sentence.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message} ({self.hint})"


class UsageError(TrsError):
    """A wrong argument: correct it and call again."""

    exit_code = 2


class SettingsError(UsageError):
    """A setting is missing or malformed; the message names its environment variable."""


class SourceError(TrsError):
    """The source cannot be read as declared: a file, table, column, privilege or server setting is wrong."""

    exit_code = 3


class CdcOpenError(SourceError):
    """A source without binlog position was offered although change data capture is open (R2)."""


class UnavailableError(TrsError):
    """An outside system does not answer."""

    exit_code = 4


class AccessDeniedError(TrsError):
    """An outside system refuses our credentials."""

    exit_code = 5


class RetryableError(TrsError):
    """A passing fault: the same call may succeed later."""

    exit_code = 6


class MovedError(RetryableError):
    """Between reading a table and opening it another writer moved its ids; nothing was written."""


class StateUnknownError(TrsError):
    """The outcome of a commit cannot be told: the state must be dropped and reloaded."""

    exit_code = 7


class FencedError(TrsError):
    """Another worker owns the bucket now (R8)."""

    exit_code = 8


class OffsetGapError(TrsError):
    """The lake's next offset is not in Kafka any more, or the topic is another one (R9)."""

    exit_code = 9


class FullDiskError(TrsError):
    """No space is left where the worker keeps its state or its files."""

    exit_code = 10


class DeadLetterStopError(TrsError):
    """A record was refused for a reason that stops the worker: its dead letter is committed, the log is not.

    The next start passes it if a person replayed or discarded the letter meanwhile.
    """

    exit_code = 11


class DamagedLakeError(TrsError):
    """A check of the lake failed."""

    exit_code = 12


class UnsettledLakeError(TrsError):
    """Not every check of the lake can be made: something that is committed is not derived yet."""

    exit_code = 13


class ConnectError(TrsError):
    """Kafka Connect refuses or fails, or the connector in it failed; the message holds its own reason."""

    exit_code = 14


class DifferencesError(TrsError):
    """Source and lake differ in rows that are not on their way."""

    exit_code = 15


class QualityError(TrsError):
    """A declared check of the lake's data failed."""

    exit_code = 16


class InvariantError(TrsError):
    """The program contradicts itself; state is not trusted any further."""

    exit_code = 70
