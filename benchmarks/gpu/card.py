# SPDX-License-Identifier: Apache-2.0
"""What nvidia-smi says of the first card. Without it, nothing is known of a card and nothing fails."""
import statistics
import subprocess
import threading

SMI = ["nvidia-smi", "-i", "0", "--format=csv,noheader,nounits"]


def described():
    """{name, driver, card_mib, power_limit_w, ..}, empty where there is no nvidia-smi."""
    names = {"card": "name", "driver": "driver_version", "card_mib": "memory.total", "power_limit_w": "power.limit",
             "max_sm_mhz": "clocks.max.sm", "ecc": "ecc.mode.current", "persistence": "persistence_mode"}
    try:
        said = subprocess.run([*SMI, "--query-gpu=" + ",".join(names.values())], text=True, capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    words = [word.strip() for word in said.stdout.strip().split(",")]
    return dict(zip(names, words)) if said.returncode == 0 and len(words) == len(names) else {}


class Card:
    """Memory, clock and power of the first card, five times a second, from the start on."""

    def __init__(self):
        self.rows, self.timed = [], 0
        command = [*SMI, "--query-gpu=memory.used,clocks.sm,power.draw", "-lms", "200"]
        try:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        except OSError:
            self.process = None
            return
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            try:
                self.rows.append([float(word) for word in line.split(",")])
            except ValueError:
                continue

    def reset(self):
        """Clock and power count from here; memory counts all along."""
        self.timed = len(self.rows)

    def stop(self):
        """{card_gib: the peak, idle_gib: before anything ran, sm_mhz, watt: means since reset}"""
        if not self.process:
            return {}
        self.process.kill()
        self.process.wait()
        timed = self.rows[self.timed:]
        if not timed:
            return {}
        return {"card_gib": max(row[0] for row in self.rows) / 1024, "idle_gib": self.rows[0][0] / 1024,
                "sm_mhz": statistics.mean(row[1] for row in timed), "watt": statistics.mean(row[2] for row in timed)}
