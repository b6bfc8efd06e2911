# SPDX-License-Identifier: Apache-2.0
"""Commands with a limit of time, after which nothing of them is left."""
import os
import pathlib
import signal
import subprocess


def end(process):
    """Kills a process and all that descend from it, whatever session they are in: a rank left behind would keep the card busy."""
    if process.poll() is not None:
        return  # its number may be another's by now
    parents = {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue  # it ended meanwhile
    family, grew = {process.pid}, True
    while grew:
        more = {pid for pid, parent in parents.items() if parent in family} - family
        family, grew = family | more, bool(more)
    for pid in family:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def run(command, seconds, log, environment=None):
    """The exit code, or None if it was ended after so many seconds. Output goes to the file `log`."""
    with open(log, "w") as file:
        process = subprocess.Popen([str(word) for word in command], stdout=file, stderr=subprocess.STDOUT, env=environment)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            end(process)
            return None
