"""What a command may write, and the record that it keeps of what it wrote."""

from banet.files.outputs.inputs import Again, weight_files
from banet.files.outputs.outputs import NewFolder, Outputs, free_folder, is_output, output_file
from banet.files.outputs.record import PART_RECORD, RECORD, RUN, Entries, Entry, Record, digest_of
from banet.files.outputs.remote import RemoteOutputs, output_in, outputs_in

__all__ = [
    "PART_RECORD",
    "RECORD",
    "RUN",
    "Again",
    "Entries",
    "Entry",
    "NewFolder",
    "Outputs",
    "Record",
    "RemoteOutputs",
    "digest_of",
    "free_folder",
    "is_output",
    "output_file",
    "output_in",
    "outputs_in",
    "weight_files",
]
