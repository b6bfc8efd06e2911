# SPDX-License-Identifier: Apache-2.0
"""What was measured, one JSON object a line in one file: a run that is cut leaves whole lines, and the next one adds what is missing."""
import json
import os
import pathlib


class TimeIsOver(Exception):
    """The next part would not end in the time that is left."""


class Results:
    """`always` are fields of every line that is added, such as the session it belongs to."""

    def __init__(self, path, **always):
        self.path, self.always = pathlib.Path(path), always
        self.rows = []
        if self.path.exists():
            data = self.path.read_bytes()
            whole = data[:data.rfind(b"\n") + 1]
            if whole != data:  # the writer was killed in the midst of a line
                self.path.write_bytes(whole)
            self.rows = [json.loads(line) for line in whole.decode().splitlines()]

    def find(self, **key):
        return [row for row in self.rows if all(row.get(name) == value for name, value in key.items())]

    def add(self, row, shown=True):
        row = {**row, **self.always}
        self.rows.append(row)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if shown:
            print(json.dumps({name: value for name, value in row.items() if name != "step_seconds"}), flush=True)
        return row
