"""The vocabulary: what a job asks for, what a node is, what an attempt holds. Frozen, no I/O.

Owns    the nouns that cross rooms. Who changes over time (a job's state, a node's free devices) lives in
        `bursard.state`, folded from events; nothing here has a clock or an identity source.
Why     one definition of each noun for the wire, the scheduler, the ledger, the simulator and the CLI.
"""

from bursar.model.activity import IDLE_RATIO, clock_reasons, is_idle
from bursar.model.allocation import DeviceShare, Hold, MemberAllocation, ShareRates
from bursar.model.deviceuse import BEYOND_THE_CAP, DeviceUse, use_of
from bursar.model.ends import ORDERED, EndFacts, kind_of, phrase_of, remedy_of, sentence_of
from bursar.model.exit import Energy, EnergySource, Exit
from bursar.model.job import (
    ENGINES,
    NO_FILES,
    WRITTEN_OTHERWISE,
    ArraySpec,
    CheckpointSpec,
    Dependency,
    EndCause,
    IdleSpec,
    JobSpec,
    JobState,
    Launch,
    OutputFiles,
    RetrySpec,
    holds_its_place,
    launch_of,
    runs_once,
)
from bursar.model.node import LIMITS, MARKETS, Calibration, Device, NodeFacts
from bursar.model.progress import (
    COUNT_MAX,
    FILE_BYTES_MAX,
    SECONDS_MAX,
    Progress,
    ProgressFile,
    read_progress,
)
from bursar.model.reason import Reason, ReasonCode
from bursar.model.service import ServiceSpec
from bursar.model.steps import Step, Steps

__all__ = [
    "BEYOND_THE_CAP",
    "COUNT_MAX",
    "ENGINES",
    "FILE_BYTES_MAX",
    "IDLE_RATIO",
    "LIMITS",
    "MARKETS",
    "NO_FILES",
    "ORDERED",
    "SECONDS_MAX",
    "WRITTEN_OTHERWISE",
    "ArraySpec",
    "Calibration",
    "CheckpointSpec",
    "Dependency",
    "Device",
    "DeviceShare",
    "DeviceUse",
    "EndCause",
    "EndFacts",
    "Energy",
    "EnergySource",
    "Exit",
    "Hold",
    "IdleSpec",
    "JobSpec",
    "JobState",
    "Launch",
    "MemberAllocation",
    "NodeFacts",
    "OutputFiles",
    "Progress",
    "ProgressFile",
    "Reason",
    "ReasonCode",
    "RetrySpec",
    "ServiceSpec",
    "ShareRates",
    "Step",
    "Steps",
    "clock_reasons",
    "holds_its_place",
    "is_idle",
    "kind_of",
    "launch_of",
    "phrase_of",
    "read_progress",
    "remedy_of",
    "runs_once",
    "sentence_of",
    "use_of",
]
