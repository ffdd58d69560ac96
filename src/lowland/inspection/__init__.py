"""Checkpoints of any origin, opened, measured block by block, and recorded."""

from lowland.inspection.checkpoints import (
    RECORD,
    check_folder,
    inspect_checkpoints,
    read_record,
    write_record,
)
from lowland.inspection.comparisons import COMPARISONS, Comparison
from lowland.inspection.constructors import parse_arguments
from lowland.inspection.load import FORMS, load_subject
from lowland.inspection.presets import PRESETS, Preset
from lowland.inspection.request import DEFAULT, EXAMPLES, Request, make_request
from lowland.inspection.subject import How, Subject
from lowland.inspection.words import default_folder, parse_numbers, parse_size

__all__ = [
    "COMPARISONS",
    "DEFAULT",
    "EXAMPLES",
    "FORMS",
    "PRESETS",
    "RECORD",
    "Comparison",
    "How",
    "Preset",
    "Request",
    "Subject",
    "check_folder",
    "default_folder",
    "inspect_checkpoints",
    "load_subject",
    "make_request",
    "parse_arguments",
    "parse_numbers",
    "parse_size",
    "read_record",
    "write_record",
]
